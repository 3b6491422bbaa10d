"""A feature's card and the token strip: hostile labels and tokens stay text."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from typing import Any

import pytest

from ui import card, strip

HOSTILE = "<img src=x onerror=alert(1)> ${alert(1)} {{value}} \"'&"
FEATURE: dict[str, Any] = {
    "ref": 'a"b/1',
    "label": HOSTILE,
    "slug": HOSTILE,
    "density": 0.0123,
    "maximum": 12.5,
    "output_score": 0.375,
    "band": [1.5, 5.0],
    "promoted_logits": [{"token": HOSTILE, "logit": 2.0}, {"token": " \n", "logit": 1.0}],
    "suppressed": [{"token": HOSTILE, "logit": -1.0}],
    "histogram": {"edges": [0.0, 1.0, 2.0], "counts": [100, 3]},
    "examples": [
        {"tokens": [HOSTILE, " gate"], "activations": [0.0, 9.5], "interval": [9.0, 12.5]},
        {"tokens": [" tower"], "activations": [9.25], "interval": [9.0, 12.5]},
        {"tokens": [" fog"], "activations": [2.5], "interval": [0.0, 3.0]},
    ],
}
TAGS = {"button", "p", "h2", "h3", "section", "dl", "div", "dt", "dd", "svg", "rect", "title"}
TAGS |= {"span", "ul", "li", "code", "i", "b"}


class Seen(HTMLParser):
    """Collects the tags, attributes and text of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_hostile_label_or_token_makes_no_element_and_no_handler() -> None:
    near = [{"ref": HOSTILE, "label": HOSTILE, "cosine": 0.5}]
    seen = Seen(card.html(FEATURE) + card.nearest(near))
    assert set(seen.tags) <= TAGS
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert "".join(seen.text).count("onerror=alert(1)") == 6
    assert ("data-add", 'a"b/1') in seen.attributes


def test_a_card_shows_what_is_known() -> None:
    html = card.html(FEATURE) + card.nearest([{"ref": "a/2", "label": "the sea", "cosine": 0.25}])
    for told in ("1.2 % of tokens", "12.5", "1.5× to 5×", "+2.00", "0.25", "the sea", "·⏎", "0.38"):
        assert told in html
    assert html.count("<rect") == 2


def test_a_feature_without_a_card_still_has_its_name_and_its_button() -> None:
    html = card.html({"ref": "d/7", "label": None, "examples": [], "histogram": None})
    seen = Seen(html)
    assert ("data-add", "d/7") in seen.attributes
    assert "section" not in seen.tags
    assert "No label" in html


def test_the_strongest_token_of_an_example_is_shaded_most() -> None:
    html = card.html(FEATURE)
    assert "--a:1.00" in html
    assert "--a:0.00" in html


def test_examples_of_weaker_intervals_say_how_strong_they_are() -> None:
    html = card.html(FEATURE)
    assert html.count("activation 0 to 3<") == 1
    assert "activation 9 to" not in html, "the strongest need no word"
    assert html.index("tower") < html.index("activation 0 to 3") < html.index("fog</span>")


def test_the_strip_keeps_the_features_of_the_rack_to_three_digits() -> None:
    chunk = {
        "steering": {
            "activations": [
                {
                    "token": HOSTILE,
                    "features": [
                        {"feature": "a/1", "before": 0.123456, "after": 31.2345},
                        {"feature": "a/9", "before": 1.0, "after": 1.0},
                    ],
                }
            ]
        }
    }
    assert strip.pack(strip.tokens(chunk), {"a/1": 3}) == [[HOSTILE, [(3, 0.123, 31.2)]]]


@pytest.mark.parametrize("value", [None, "x", math.nan, math.inf])
def test_a_reading_that_is_no_number_does_not_break_the_page(value: object) -> None:
    traced = [{"token": "a", "features": [{"feature": "a/1", "before": value, "after": 2}]}]
    assert strip.pack(traced, {"a/1": 0}) == [["a", [(0, 0.0, 2.0)]]]


@pytest.mark.parametrize("chunk", [{}, {"steering": None}, {"steering": {"activations": None}}])
def test_a_chunk_without_a_trace_has_no_tokens(chunk: dict[str, Any]) -> None:
    assert strip.tokens(chunk) == []


def test_what_could_not_be_told_of_a_token_is_left_out_of_the_strip() -> None:
    told = strip.tokens({"steering": {"kl": [{"token": "a", "kl": None}]}})
    assert strip.pack(told, {}) == [["a", [], None]]
    assert strip.tokens({"steering": {"activations": "?", "kl": 3}}) == []
    odd = {"token": "a", "steered": {"logprob": "x", "top": [1]}, "unsteered": None}
    assert strip.pack([odd], {}) == [["a", [], None, [[0.0, []], [0.0, []]]]]
