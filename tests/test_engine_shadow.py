"""A reply beside its shadow: the same tokens, unsteered, in the same steps."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from server.engine.attention import STEP
from server.engine.contrast import Pair, differences
from server.engine.types import Change, Contrast, Delta, Failure, Finish, FinishReason, Request
from server.errors import BadRequest, Busy

LONG = "A prompt of some length, to be computed in several chunks."
VOCAB = 259


def shadowed(request: Request, top: int = 0) -> Request:
    return replace(request, kl=True, top=top)


def contrasts(heard: Any) -> list[Contrast]:
    return [token.contrast for token in heard.tokens]


async def test_a_contrast_is_that_of_the_two_models_on_the_same_tokens(
    make_engine, make_model, ask, hear, steer
) -> None:
    strong = steer((3, "clamp", 6.0), (9, "add", 3.0))
    request = ask(LONG, steering=strong, temperature=1.0, seed=4, logprobs=VOCAB)
    [reply] = await hear(make_engine(chunk=16), shadowed(request, top=3))
    ids = [*request.prompt, *reply.ids]
    plain = make_model()(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    for i, token in enumerate(reply.tokens):
        unsteered = plain[len(request.prompt) + i - 1]
        steered = {likely.id: likely.logprob for likely in token.top}
        kl = sum(math.exp(lp) * (lp - unsteered[j].item()) for j, lp in steered.items())
        told = token.contrast
        assert told.kl == pytest.approx(kl, abs=1e-4)
        assert told.logprob == pytest.approx(token.logprob, abs=1e-5)
        assert told.unsteered_logprob == pytest.approx(unsteered[token.id].item(), abs=1e-4)
        assert told.top == token.top[:3]
        best = unsteered.topk(3)
        assert [likely.id for likely in told.unsteered_top] == best.indices.tolist()
        assert [likely.logprob for likely in told.unsteered_top] == pytest.approx(
            best.values.tolist(), abs=1e-4
        )
    assert max(one.kl for one in contrasts(reply)) > 0.1


async def test_a_reply_is_the_same_with_and_without_a_shadow(make_engine, ask, hear, steer) -> None:
    engine = make_engine(chunk=16)
    one = ask(LONG, steering=steer((3, "clamp", 6.0)), temperature=1.0, seed=4, logprobs=1)
    other = ask("Another.", temperature=1.0, seed=5, max_tokens=30)
    without = await hear(engine, one, other)
    beside = await hear(
        engine, shadowed(replace(one, id="shadowed")), replace(other, id="other again")
    )
    for before, after in zip(without, beside, strict=True):
        assert after.ids == before.ids
        assert after.end == before.end
    logprobs = [[token.logprob for token in heard[0].tokens] for heard in (without, beside)]
    assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-5)
    assert not any(contrasts(without[0]))


async def test_nothing_differs_until_something_is_edited(make_engine, ask, hear, steer) -> None:
    new = steer((3, "clamp", 9.0))
    plain, later, ended = await hear(
        make_engine(),
        shadowed(ask(temperature=1.0, seed=1)),
        shadowed(ask(LONG, changes=(Change(5, new),))),
        shadowed(ask(steering=new, changes=(Change(4, steer()),))),
    )
    assert [one.kl for one in contrasts(plain)] == [0.0] * 12
    assert all(one.logprob == one.unsteered_logprob for one in contrasts(plain))
    assert [one.kl == 0.0 for one in contrasts(later)] == [True] * 5 + [False] * 7
    # What was computed under steering stays in the cache, and still speaks.
    assert all(one.kl > 1e-6 for one in contrasts(ended))


async def test_a_shadow_follows_its_reply_through_a_moving_crowd(
    make_engine, ask, hear, steer
) -> None:
    engine = make_engine(max_rows=5, chunk=16)
    steering = steer((3, "clamp", 4.0), (9, "add", 2.0, "generated"))
    crowd = [
        (shadowed if i % 2 else replace)(
            ask(LONG[: 12 + 9 * i], steering=steering, seed=i, temperature=1.0, max_tokens=4 + i)
        )
        for i in range(9)
    ]
    together = await hear(engine, *crowd)
    for request, reply in zip(crowd, together, strict=True):
        [alone] = await hear(engine, replace(request, id=f"{request.id} alone"))
        assert reply.ids == alone.ids
        if request.kl:
            kls = [[one.kl for one in contrasts(heard)] for heard in (reply, alone)]
            assert kls[0] == pytest.approx(kls[1], abs=1e-4)
    assert engine.stats().running == 0


async def test_a_shadow_counts_as_a_row_in_admission(make_engine, ask) -> None:
    engine = make_engine(max_rows=2, max_waiting=2)
    streams = [engine.submit(shadowed(ask(max_tokens=300))), engine.submit(ask(id="waits"))]
    with pytest.raises(Busy, match=r"This request needs 2 rows, and of 4 .* 3 are taken"):
        engine.submit(shadowed(ask()))
    engine.submit(ask(id="waits too"))
    with pytest.raises(Busy, match="All 2 rows are taken"):
        engine.submit(ask())
    while not engine.stats().running:
        await asyncio.sleep(0.001)
    assert (engine.stats().running, engine.stats().waiting) == (2, 2)
    streams[0].cancel()
    events = [event async for event in streams[1]]
    assert isinstance(events[-1], Finish)
    lone = make_engine(max_rows=1)
    with pytest.raises(BadRequest, match="takes a second row, and this server has one"):
        lone.submit(shadowed(ask()))


async def test_a_cancelled_reply_takes_its_shadow_along(make_engine, ask, hear) -> None:
    engine = make_engine(max_rows=2, max_waiting=4)
    running, waiting = (engine.submit(shadowed(ask(max_tokens=400))) for _ in range(2))
    assert isinstance(await anext(running), Delta)
    waiting.cancel()
    running.cancel()
    for stream in (running, waiting):
        assert [event async for event in stream][-1].reason is FinishReason.CANCELLED
    [after] = await hear(engine, shadowed(ask()))
    assert len(contrasts(after)) == 12
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)


@pytest.mark.parametrize("broken", [0, 1], ids=["the reply's row", "its shadow's"])
async def test_a_row_that_raises_fails_its_reply_and_no_other(
    make_engine, make_model, ask, hear, steer, broken
) -> None:
    model = make_model()
    engine = make_engine(model=model)
    request = shadowed(ask(steering=steer((3, "clamp", 6.0))))
    [fine] = await hear(engine, request)
    late = len(request.prompt) + 5

    def poisoned(_module: Any, _args: Any, kwargs: Any) -> None:
        batch = STEP.get().batch
        if broken in range(batch.rows.start, batch.rows.stop) and late in batch.positions:
            raise RuntimeError("poison on the way")

    handle = model.register_forward_pre_hook(poisoned, with_kwargs=True)
    bad, other = await hear(engine, replace(request, id="bad"), ask(LONG, max_tokens=3))
    assert bad.end == Failure("A step of this reply failed: poison on the way")
    assert bad.ids == fine.ids[:6]
    assert isinstance(other.end, Finish)
    handle.remove()
    [after] = await hear(engine, replace(request, id="after"))
    assert after.tokens == fine.tokens


async def test_steering_before_the_first_token_is_compared_from_the_start(
    make_engine, ask, hear, steer
) -> None:
    engine = make_engine(chunk=8, max_rows=2)
    new = steer((3, "clamp", 9.0))
    first = engine.submit(ask(LONG, max_tokens=3))
    held = engine.submit(shadowed(ask(LONG, id="held", steering=steer((9, "add", 1.0)))))
    assert engine.steer("held", new) == 0
    tokens = [t for e in [e async for e in held][:-1] for t in e.tokens]
    assert isinstance([event async for event in first][-1], Finish)
    [alone] = await hear(engine, shadowed(ask(LONG, steering=new)))
    assert [token.id for token in tokens] == alone.ids
    assert [token.contrast.kl for token in tokens] == pytest.approx(
        [one.kl for one in contrasts(alone)], abs=1e-4
    )


def test_the_difference_of_distributions_is_exact_where_it_can_be() -> None:
    steered = torch.tensor([0.0, 1.0, -math.inf])
    same, gone = differences(
        [Pair(steered, steered, 1, 2), Pair(steered, torch.tensor([-math.inf, 0.0, 0.0]), 1, 1)]
    )
    assert same.kl == 0.0
    assert [i for i, _ in same.top] == [1, 0]
    assert gone.kl == math.inf
    assert len(gone.unsteered_top) == 1
    assert differences([]) == []
