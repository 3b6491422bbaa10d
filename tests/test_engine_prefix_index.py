"""Marks tell what acts where, and the index finds the longest beginning alike in both."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dictionaries.edits import Op
from server.engine.prefix import BLOCK, NEUTRAL, Mark, PrefixIndex, marks
from server.engine.types import FeatureEdit, Steering, Where


def test_marks_tell_what_acts_where() -> None:
    def edit(where: str = "all", shift: float = 1.0, name: str = "a", feature: int = 1) -> Any:
        return FeatureEdit(name, feature, Op.ADD, shift, Op.ADD.edit(shift), Where(where))

    def both(*edits: FeatureEdit, keep: bool = False, revision: str = "1") -> tuple[Mark, Mark]:
        return marks(Steering(edits, keep), {"a": revision, "b": revision})

    assert both() == both(keep=True) == (NEUTRAL, NEUTRAL)
    prompt, generated = both(edit())
    assert prompt == generated != NEUTRAL
    assert both(edit("prompt")) == (prompt, NEUTRAL)
    assert both(edit("generated")) == (NEUTRAL, prompt)
    assert both(edit("prompt"), edit("generated")) == (prompt, prompt)
    assert both(edit(), edit("generated", feature=2))[0] == prompt
    others = [
        both(edit(shift=2.0)),
        both(edit(name="b")),
        both(edit(feature=2)),
        both(edit(), keep=True),
        both(edit(), revision="2"),
        both(edit(), edit(feature=2)),
    ]
    assert len({one for one, _ in others} | {prompt}) == len(others) + 1


def test_steering_that_is_more_than_edits_has_no_mark() -> None:
    @dataclass(frozen=True)
    class Later(FeatureEdit):
        when: str = "something is seen"

    later = Later("a", 1, Op.ADD, 1.0, Op.ADD.edit(1.0), Where.GENERATED)
    assert marks(Steering((later,)), {"a": "1"}) == (None, None)


def test_the_index_finds_the_longest_beginning_and_nothing_else() -> None:
    """Against the contents themselves, with few tokens so that much begins alike."""
    draw, index = random.Random(1), PrefixIndex(12)
    stored: dict[int, tuple[Sequence[int], Sequence[Mark]]] = {}

    def sequence() -> tuple[list[int], list[Mark]]:
        blocks = draw.randrange(6)
        tokens = [token for _ in range(blocks) for token in [draw.randrange(2)] * BLOCK]
        tokens += [7] * draw.randrange(BLOCK)
        left: list[Mark] = [draw.choice([NEUTRAL, NEUTRAL, b"x", None])] * len(tokens)
        cut = draw.randrange(len(tokens) + 1)
        return tokens, [NEUTRAL] * cut + left[cut:]

    longest = 0
    for _ in range(4000):
        tokens, left = sequence()
        if draw.random() < 0.5:
            start, ids = index.add(tokens, left)
            for i, id in enumerate(ids):
                stop = start + (i + 1) * BLOCK
                stored[id] = tokens[:stop], left[:stop]
        elif None not in left:
            found = index.find(tokens, left)
            longest = max(longest, len(found))
            for i, id in enumerate(found):
                stop = (i + 1) * BLOCK
                assert stored[id] == (tokens[:stop], left[:stop])
        assert len(index) <= 12
        assert None not in itertools.chain(*(kept for _, kept in stored.values()))
    assert longest >= 4
