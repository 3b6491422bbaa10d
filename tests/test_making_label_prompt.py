"""What a model is asked for a label, and which of its replies are one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from label_stub import FOG

from dictionaries.cards import Card, Example
from dictionaries.making.label import parse, prompt


def test_the_prompt_shows_examples_with_activations_and_promoted_tokens():
    system, user = prompt(FOG)
    assert system["role"] == "system"
    assert "1.  the<< fog>>(10)<< is>>(2)" in user["content"]
    assert "2.  a<< cloud>>(5)" in user["content"]
    assert "' mist', ' haze'" in user["content"]


def test_the_prompt_is_bounded_and_keeps_the_peak_and_the_weak_examples():
    peaked = Example(("x",) * 3000 + (" peak",), (0.0,) * 3000 + (9.0,))
    weak = [Example((f" weak{i}",), (float(20 - i),)) for i in range(19)]
    content = prompt(replace(FOG, examples=(peaked, *weak)))[1]["content"]
    assert len(content) < 2000
    assert " peak>>" in content
    assert "weak18" in content
    assert prompt(Card(1, "nothing known"))[1]["content"] == "Label:"


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("Golden Gate Bridge", "Golden Gate Bridge"),
        ('  "fog and mist."\n', "fog and mist"),
        ("Label: words for weather", "words for weather"),
        ("**Label:** words for weather", "words for weather"),
        ("The label is: rain", "rain"),
        ("Label:\nrain at night", "rain at night"),
        ("<think>It is about\n\nfog.</think>\nfog", "fog"),
        ("words  before\tcommas", "words before commas"),
        ("海の言葉", "海の言葉"),
        ("", None),
        ("<think>I never stop", None),
        ("I'm sorry, but I cannot label this.", None),
        ("As an AI, I see fog", None),
        ("There is not enough evidence", None),
        ("unknown", None),
        ("Various tokens.", None),
        ("12345", None),
        ("...", None),
        ("word " * 13, None),
        ("x" * 81, None),
        ("fog\nIt is about fog.\nAnd mist.", None),
        ("the<< fog>>(10)", None),
        ("fo\x00g", None),
    ],
)
def test_only_a_short_line_that_says_something_is_a_label(reply, label):
    assert parse(reply) == label
