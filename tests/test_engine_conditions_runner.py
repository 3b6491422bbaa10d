"""Conditions in the runner: prompts cut anyhow, other rows, who has a row next, and refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import conditions_by_hand
import pytest
import torch
from conditions_by_hand import above, below, edit
from torch import Tensor

from dictionaries.dictionary import Dictionary
from server.engine.batch import Batch, Span
from server.engine.runner import Runner
from server.engine.types import Steering
from server.errors import Unsteerable

three = conditions_by_hand.three  # fixture


def runner(model: Any, dictionaries: Sequence[Dictionary]) -> Runner:
    known = {one.info.id: one for one in dictionaries}
    return Runner(model, known, rows=3, capacity=64, max_edits=8)


def span(row: int, ids: Sequence[int], start: int, stop: int) -> Batch:
    part = tuple(ids[start:stop])
    own = Span(row, start, part, (True,) * len(part), stop == len(ids))
    return Batch(0, [], [], [], (own,))


IDS = tuple(range(60, 84))


@pytest.mark.parametrize("latch", [False, True])
def test_cut_repeated_or_fed_one_by_one_a_prompt_is_steered_alike(make_model, three, latch) -> None:
    when = above(7, 8.0, latch=latch)
    steering = Steering((edit(3, "clamp", 9.0, when=when), edit(4, "add", 5.0, "high", when=when)))

    def last(*cuts: int, again: bool = False, alone: bool = False) -> Tensor:
        made = runner(make_model(), three)
        made.steerer.write(0, made.steerer.prepare(steering), 100)
        for start, stop in zip((0, *cuts), (*cuts, len(IDS)), strict=True):
            for _ in range(1 + again):  # as when a step failed and its rows run alone
                logits = made.forward(span(0, IDS, start, stop))
        if alone:
            for at in range(len(IDS)):
                logits = made.forward(Batch(0, [IDS[at]], [at], [True], ()))
        assert made.steerer.seen()[0].since[0] == held
        return logits[0]

    made = runner(make_model(), three)
    made.steerer.write(0, made.steerer.prepare(steering), 100)
    whole = made.forward(span(0, IDS, 0, len(IDS)))[0]
    [held] = made.steerer.seen()[0].since
    assert 0 < held < len(IDS) - 8, "it is met in the middle"
    for other in (
        last(5, 9, 20),
        last(held),
        last(held + 1),
        last(7, again=True),
        last(alone=True),
    ):
        torch.testing.assert_close(other, whole, atol=1e-5, rtol=1e-5)
    plain = runner(make_model(), three).forward(span(0, IDS, 0, len(IDS)))[0]
    assert not torch.allclose(whole, plain, atol=1e-2)


def test_conditions_change_no_bit_of_other_rows(make_model, three, steer) -> None:
    """Neither of an unsteered row nor of one whose edits always act."""
    some = steer((3, "clamp", 6.0), (9, "scale", 3.0))
    timed = Steering(
        (
            edit(3, "clamp", 6.0, when=below(9, 0.5, "low"), half_life=3.0),
            edit(9, "scale", 3.0, last=4),
        )
    )
    outputs = []
    for other in (some, timed):
        made = runner(make_model(), three)
        made.steerer.write(0, made.steerer.prepare(some))
        made.steerer.write(2, made.steerer.prepare(other))
        for row in range(3):
            made.forward(span(row, IDS, 0, len(IDS)))
        outputs.append(made.forward(Batch(0, [5, 6, 7], [len(IDS)] * 3, [True] * 3, ())))
    assert torch.equal(outputs[0][:2], outputs[1][:2])
    assert not torch.equal(outputs[0][2], outputs[1][2])


def test_a_row_forgets_the_conditions_of_who_had_it(make_model, three) -> None:
    made = runner(make_model(), three)
    latched = Steering((edit(3, "clamp", 9.0, when=above(9, 0.9, latch=True)),))
    made.steerer.write(0, made.steerer.prepare(latched), len(IDS))
    made.forward(span(0, IDS, 0, len(IDS)))
    made.steerer.write(1, None)
    made.steerer.move(0, 1)
    [held] = made.steerer._held(1).values()
    assert held < len(IDS), "a reply that moves keeps its latch"
    made.steerer.write(1, made.steerer.prepare(latched), 3, anew=False)
    assert made.steerer._held(1) == {latched.conditions[0]: held}, "a live change as well"
    made.steerer.write(1, made.steerer.prepare(latched), 3)
    [held] = made.steerer._held(1).values()
    assert held > len(IDS)


def test_what_cannot_be_timed_as_asked_is_refused(make_model, make_dictionary, three) -> None:
    blind = make_dictionary("mid", layer=1, hook="resid_mid", seed=8)
    made = runner(make_model(), [*three, blind])
    refused: dict[str, tuple[Any, ...]] = {
        r"layer 2 resid_post, which the model computes later": (
            edit(3, "add", 1.0, when=above(1, 1.0, "high")),
        ),
        r"at layer 1 resid_mid waits for .* at layer 1 resid_post": (
            edit(3, "add", 1.0, "mid", when=above(1, 1.0)),
        ),
        "feature 64 of 'tiny': it has features 0 to 63": (
            edit(3, "add", 1.0, when=above(64, 1.0)),
        ),
        "'else'; loaded are": (edit(3, "add", 1.0, when=above(1, 1.0, "else")),),
        "with nan": (edit(3, "add", 1.0, when=above(1, float("nan"))),),
        "window from reply token 4 to 2": (edit(3, "add", 1.0, first=4, last=2),),
        "half-life of 0": (edit(3, "add", 1.0, half_life=0.0),),
        "acts on the prompt only": (edit(3, "add", 1.0, where="prompt", first=1),),
        "9 different conditions": tuple(edit(i, "add", 1.0, when=above(i, 1.0)) for i in range(8)),
    }
    for why, edits in refused.items():
        aborts = (above(1, 2.0),) if why.startswith("9") else ()
        with pytest.raises(Unsteerable, match=why):
            made.steerer.prepare(Steering(edits[:8], aborts=aborts))
    made.steerer.prepare(Steering((edit(3, "add", 1.0, when=above(1, 1.0, "mid")),)))
