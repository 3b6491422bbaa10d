"""Requests that come together share the computation of a prompt, and nobody can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gated_engine
import pytest
from gated_engine import LONG

from server.engine.runner import Runner
from server.engine.types import Finish, FinishReason
from server.errors import BadRequest

gated = gated_engine.gated  # fixture


@pytest.fixture
def counted(make_engine: Callable[..., Any], make_model: Callable[..., Any]) -> Any:
    """An engine, and the number of tokens in each of its forward passes."""
    model, passes = make_model(), []
    engine = make_engine(model=model, chunk=16)
    model.register_forward_pre_hook(
        lambda _module, _args, kwargs: passes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return engine, passes


@pytest.fixture
def together(read: Callable[..., Any]) -> Callable[..., Any]:
    """The replies to requests that come at once."""

    async def together(engine: Any, *requests: Any) -> list[Any]:
        return list(await asyncio.gather(*map(read, engine.submit_all(requests))))

    return together


@pytest.fixture
def alone(read: Callable[..., Any]) -> Callable[..., Any]:
    """The replies to the same requests, one after the other."""

    async def alone(engine: Any, *requests: Any) -> list[Any]:
        again = [replace(request, id=f"{request.id} alone") for request in requests]
        return [await read(engine.submit(request)) for request in again]

    return alone


def same(heard: list[Any], expected: list[Any]) -> None:
    for one, other in zip(heard, expected, strict=True):
        assert (one.text, one.ids, one.end) == (other.text, other.ids, other.end)
        kls = [[t.contrast and t.contrast.kl for t in reply.tokens] for reply in (one, other)]
        assert kls[0] == pytest.approx(kls[1], abs=1e-4)


async def test_a_prompt_is_computed_once_for_all_who_do_not_edit_it(
    counted, ask, steer, together, alone
) -> None:
    engine, passes = counted
    later = steer((3, "clamp", 6.0, "generated"))
    sampled = {"temperature": 1.0, "max_tokens": 6}
    requests = [
        ask(LONG, **sampled),
        ask(LONG, **sampled, steering=later, seed=1),
        replace(ask(LONG, **sampled, steering=later, seed=2), kl=True),
        ask(LONG, **sampled, seed=3),
    ]
    heard = await together(engine, *requests)
    assert sum(passes) == len(requests[0].prompt) + 5 * 5, "five rows, five passes after the first"
    assert heard[2].tokens[0].contrast.kl == 0.0
    assert heard[2].tokens[1].contrast.kl > 1e-6
    same(heard, await alone(engine, *requests))


async def test_who_edits_the_prompt_shares_it_with_those_who_edit_it_alike(
    counted, ask, steer, together, alone
) -> None:
    engine, passes = counted
    edit = (3, "clamp", 6.0)
    prompt = len(ask(LONG).prompt)
    alike = [
        ask(LONG, steering=steer(edit), max_tokens=4),
        ask(LONG, steering=steer(edit, (9, "add", 4.0, "generated")), max_tokens=4),
    ]
    heard = await together(engine, *alike)
    assert sum(passes) == prompt + 2 * 3
    same(heard, await alone(engine, *alike))
    passes.clear()
    beside = [replace(request, id=f"{request.id} beside", kl=True) for request in alike]
    heard = await together(engine, *beside)
    assert sum(passes) == 2 * prompt + 4 * 3, (
        "two rows of the one, taken over by those of the other"
    )
    same(heard, await alone(engine, *beside))
    passes.clear()
    apart = [
        ask(LONG, max_tokens=2),
        ask(LONG, steering=steer((3, "clamp", 5.0)), max_tokens=2),
        ask(LONG, steering=steer(edit), max_tokens=30),
        ask(LONG, steering=steer(edit, keep_norm=True), max_tokens=2),
        ask(LONG, steering=steer(edit), max_tokens=2, trace=True),
        replace(alike[0], id="other flags", steerable=(False,) * prompt),
    ]
    heard = await together(engine, *apart)
    assert sum(passes) == 6 * prompt + 4 + 29 + 3
    same(heard, await alone(engine, *apart))


async def test_heirs_wait_for_rows_and_outlive_their_source(
    make_engine, ask, together, alone
) -> None:
    engine = make_engine(max_rows=2, max_waiting=8, chunk=16)
    requests = [ask(LONG, temperature=1.0, seed=i, max_tokens=3 + i) for i in range(5)]
    same(await together(engine, *requests), await alone(engine, *requests))


@pytest.mark.parametrize("what", ["cancelled", "steered"])
async def test_a_source_that_goes_another_way_leaves_its_heirs_right(
    make_engine, ask, steer, read, alone, what
) -> None:
    engine = make_engine(chunk=8)
    requests = [ask(LONG, id=f"{i}", temperature=1.0, seed=i) for i in range(4)]
    expected = await alone(engine, *requests)
    new = steer((3, "clamp", 9.0))
    streams = engine.submit_all(requests)
    if what == "cancelled":
        streams[0].cancel()
    else:
        assert engine.steer("0", new) == 0
        assert engine.steer("2", new) == 0
        expected[2:3] = await alone(engine, replace(requests[2], id="2 steered", steering=new))
    heard = [await read(stream) for stream in streams]
    if what == "cancelled":
        assert heard[0].end.reason is FinishReason.CANCELLED
    else:
        expected[:1] = await alone(engine, replace(requests[0], id="0 steered", steering=new))
        assert heard[0].ids == expected[0].ids
    for i in (1, 2, 3):
        assert heard[i].ids == expected[i].ids


async def test_all_are_queued_or_none(make_engine, ask, together) -> None:
    engine = make_engine(max_rows=1, max_waiting=2)
    with pytest.raises(BadRequest, match="needs 4 rows, and this server has 1"):
        engine.submit_all([ask() for _ in range(4)])
    with pytest.raises(BadRequest, match="'twice' is already under way"):
        engine.submit_all([ask(id="twice"), ask(id="twice")])
    with pytest.raises(BadRequest, match="0 prompt tokens"):
        engine.submit_all([ask(), ask("")])
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)
    heard = await together(engine, *(ask() for _ in range(3)))
    assert all(isinstance(reply.end, Finish) for reply in heard)


async def test_who_takes_a_prompt_over_says_what_it_was_computed_with(
    gated, ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = "eager"
    monkeypatch.setattr(Runner, "arithmetic", property(lambda _: now))
    engine, gate = gated()
    requests = [ask(max_tokens=2) for _ in range(2)]
    streams = engine.submit_all(requests)
    gate.open(1)  # the prompt, for both
    await gate.reached()
    now = "compiled"
    gate.open()
    ends = [[event async for event in stream][-1] for stream in streams]
    assert [end.arithmetic for end in ends] == [("eager", "compiled")] * 2
