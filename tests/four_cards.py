"""A cards file of four cards, and which of them a search finds."""

from __future__ import annotations

import pytest

from dictionaries.cards import Card, Cards, Example, Histogram

BRIDGE = Card(
    feature=12,
    label="The Golden Gate Bridge",
    slug="golden-gate-bridge",
    density=0.0013,
    maximum=41.5,
    histogram=Histogram((0.0, 1.0, 2.5), (3, 9)),
    promoted=((" bridge", 7.25), ("\nGate", 3.5), (" Söder", 1.0)),
    suppressed=((' "no', -2.0),),
    examples=(Example(("The", " Golden", " Gate"), (0.0, 3.5, 41.5)), Example((), ())),
    onset=0.4,
    breakdown=2.0,
    op="clamp",
    strength=1.2,
    output_score=0.25,
    neighbours=((3, 0.5), (70_000, -0.125)),
    labelled_by="concept",
)
TEA = Card(
    3,
    "tea and coffee",
    "tea",
    density=0.25,
    maximum=9.0,
    op="add",
    strength=0.5,
    output_score=0.75,
    examples=(Example((" tea",), (9.0,), (8.0, 9.0)), Example((" cup",), (1.0,), (0.0, 2.0))),
)
BLANK = Card(70_000, "")
CAFE = Card(4, "Café au lait, golden hour", density=0.02, promoted=((" latte", 2.0),))
ALL = [BRIDGE, TEA, BLANK, CAFE]


@pytest.fixture
def cards(tmp_path):
    with Cards.create(tmp_path / "cards.sqlite") as written:
        written.put(ALL)
        yield written


def found(cards, q="", **options):
    page, total = cards.search(q, **options)
    assert total == len(page)
    return [card.feature for card in page]
