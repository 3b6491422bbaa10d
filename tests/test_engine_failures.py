"""A step that fails, and numbers beyond all bounds, harm the replies that brought them alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gated_engine
import pytest
from gated_engine import LONG

from server.engine.conditions import Condition, Crossing
from server.engine.passes import Passes
from server.engine.types import Failure, Finish, FinishReason

gated = gated_engine.gated  # fixture


async def test_a_row_that_raises_fails_alone(make_engine, make_model, ask, hear, tokenizer) -> None:
    model = make_model()
    engine = make_engine(model=model, chunk=64)
    good = [ask(max_tokens=9), ask("Another.", temperature=1.0, seed=3, max_tokens=9)]
    expected = [reply.ids for reply in await hear(engine, *good)]
    poison, late = tokenizer.encode("\x07")[0], len(LONG) + 5

    def poisoned(_module: Any, _args: Any, kwargs: Any) -> None:
        if (kwargs["input_ids"] == poison).any():
            raise RuntimeError("poison in the prompt")
        if (kwargs["position_ids"] == late).any():
            raise RuntimeError("poison on the way")

    model.register_forward_pre_hook(poisoned, with_kwargs=True)
    bad = [ask("\x07"), ask(LONG)]
    again = [replace(request, id=f"again-{i}") for i, request in enumerate(good)]
    replies = await hear(engine, bad[0], again[0], bad[1], again[1])
    assert [replies[1].ids, replies[3].ids] == expected
    assert replies[0].end == Failure("A step of this reply failed: poison in the prompt")
    assert replies[2].end == Failure("A step of this reply failed: poison on the way")
    assert len(replies[2].ids) == 6, "what came before stands"
    assert engine.stats().alive
    [after] = await hear(engine, replace(good[0], id="after"))
    assert after.ids == expected[0]


async def test_a_step_that_is_run_again_draws_the_same_numbers(
    make_engine, ask, hear, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [ask(max_tokens=8, temperature=1.0, seed=seed) for seed in (1, 2)]
    expected = await hear(make_engine(), *requests)
    failed = []

    def readings(*_: Any) -> tuple[()]:
        failed.append(len(failed))
        if len(failed) == 5:  # after the tokens of that step were drawn
            raise RuntimeError("once")
        return ()

    monkeypatch.setattr(Passes, "_readings", readings)
    again = await hear(make_engine(), *(replace(one, id=f"again-{one.id}") for one in requests))
    assert len(failed) > 5
    assert [reply.ids for reply in again] == [reply.ids for reply in expected]


async def test_steering_beyond_all_numbers_fails_its_reply_and_leaves_a_clean_row(
    make_engine, ask, hear, steer
) -> None:
    engine = make_engine(max_rows=2)
    wild = steer(*((i, "add", 3.4e38) for i in range(8)))
    [fine] = await hear(engine, ask(max_tokens=6))
    replies = await hear(
        engine,
        ask(LONG, steering=wild, temperature=1.0),
        ask(max_tokens=6),
        ask(LONG, steering=wild),
        ask(max_tokens=6),
        ask(max_tokens=6),
    )
    assert all(isinstance(replies[i].end, Failure) for i in (0, 2))
    assert "Lower the strengths" in replies[0].end.message
    assert [replies[i].ids for i in (1, 3, 4)] == [fine.ids] * 3


@pytest.mark.parametrize("how", ["abort", "move"])
async def test_what_is_not_finite_harms_nobody_who_comes_to_the_row_after_it(
    how: str, gated, ask, hear, steer
) -> None:
    """Where no logits have shown it yet: an abort in the prompt, and a reply that moved there."""
    engine, gate = gated(max_rows=3, chunk=16)
    wild = steer(*((i, "add", 3.4e38) for i in range(8)))
    staying = engine.submit(ask(LONG * 4, max_tokens=120))
    going = engine.submit(ask(max_tokens=120))
    gate.open(20)
    await gate.reached()
    if how == "abort":
        always = Condition("tiny", 9, Crossing.BELOW, 1e9)
        bad = engine.submit(ask(LONG, steering=replace(wild, aborts=(always,))))
    else:
        bad = engine.submit(ask(LONG, steering=wild))
    gate.open(2)  # into its prompt, and not through it
    await gate.reached()
    if how == "move":
        going.cancel()
    gate.open()
    end = [event async for event in bad][-1]
    assert end.reason is FinishReason.ABORT if how == "abort" else isinstance(end, Failure)
    after = [engine.submit(ask("Short.", max_tokens=6)) for _ in range(2)]
    ends = [[event async for event in stream][-1] for stream in after]
    assert [type(end) for end in ends] == [Finish, Finish]
    for stream in (staying, going):
        stream.cancel()
