"""What was computed before is used again: a hit is a miss but for the work, in bounded memory."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import prefix_engines
import pytest
from prefix_engines import SPACE, TEXT, turn, whole

from server.engine.prefix import BLOCK
from server.engine.runner import Runner
from server.engine.types import Finish, FinishReason, Steering
from server.errors import SteerdeckError

warm, cold, same = prefix_engines.warm, prefix_engines.cold, prefix_engines.same  # fixtures


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gemma3", "qwen3", "gpt_neox"])
async def test_a_hit_gives_the_tokens_of_a_miss(
    family, make_engine, make_model, ask, hear, steer
) -> None:
    """Sliding windows too: a row holds all positions, whatever a layer looks at."""
    warm = make_engine(family, prefix_cache=SPACE, chunk=32)
    cold = make_engine(family, chunk=32)
    clamp = steer((3, "clamp", 4.0), (9, "add", -2.0), keep_norm=True)
    for steering, temperature in itertools.product((Steering(), clamp), (0.0, 1.0)):
        first = ask(TEXT, steering=steering, temperature=temperature, seed=5, max_tokens=20)
        again = replace(first, id="again")
        [expected] = await hear(cold, first)
        [one] = await hear(warm, first)
        await hear(warm, ask("x" * 2 * len(TEXT), max_tokens=1))  # another takes its row
        [two] = await hear(warm, again)
        assert one.ids == two.ids == expected.ids
        assert one.text == two.text
        assert two.end.cached_tokens == whole(len(first.prompt))
        assert replace(two.end, cached_tokens=0) == expected.end


async def test_the_last_token_of_a_prompt_is_always_computed(warm, same, ask) -> None:
    for length in (1, BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK):
        assert (await same(warm, ask(TEXT[:length]))).end.cached_tokens < max(length, 1)
        again = await same(warm, ask(TEXT[:length]))
        assert again.end.cached_tokens == min(whole(length), length - 1)


@pytest.mark.parametrize("where", ["all", "prompt", "generated"])
async def test_a_chats_next_turn_takes_what_it_would_compute_alike(
    where, warm, same, ask, steer
) -> None:
    steering = steer((3, "clamp", 4.0, where))
    request = ask(TEXT, steering=steering, max_tokens=40)
    reply = await same(warm, request)
    assert reply.end.cached_tokens == 0
    for _ in range(2):
        # As prompt the reply is edited by what acts on prompts, and that was so only if all is.
        alike = len(request.prompt) + (len(reply.ids) - 1 if where == "all" else 0)
        request = turn(request, reply, " And then?", ask, steering=steering, max_tokens=40)
        reply = await same(warm, request)
        assert reply.end.cached_tokens == whole(alike)


async def test_equal_prompts_at_once_are_each_computed_or_taken(
    warm, same, ask, hear, steer
) -> None:
    clamp = steer((3, "clamp", 4.0))
    asked = [ask(TEXT, steering=s, max_tokens=9) for s in (clamp, Steering()) for _ in range(6)]
    random.Random(3).shuffle(asked)
    alone = {
        s: (await same(warm, ask(TEXT, steering=s, max_tokens=9))).ids for s in (clamp, Steering())
    }
    for _ in range(2):
        for request, reply in zip(asked, await hear(warm, *asked), strict=True):
            assert reply.ids == alone[request.steering]


async def test_a_cancelled_reply_leaves_what_it_has_said_and_half_a_prompt_leaves_nothing(
    make_engine, make_model, same, ask, hear
) -> None:
    model = make_model()
    engine = make_engine(model=model, prefix_cache=SPACE, chunk=32)
    passes = itertools.count(1)
    stop_at = 2

    def stop(*_: Any) -> None:
        if next(passes) == stop_at:
            engine.drop("going")

    model.register_forward_pre_hook(stop)
    half = ask(TEXT, id="going", max_tokens=90)
    [reply] = await hear(engine, half)
    assert (reply.end.reason, reply.ids) == (FinishReason.CANCELLED, [])
    assert engine.stats().cached == 0
    passes, stop_at = itertools.count(1), 50
    [reply] = await hear(engine, half)
    assert reply.end.reason is FinishReason.CANCELLED
    assert len(reply.ids) > 40
    asked = turn(half, reply, " Go on.", ask)
    known = whole(len(half.prompt) + len(reply.ids) - 1)
    assert (await same(engine, asked)).end.cached_tokens == known


async def test_the_row_beside_a_reply_takes_as_much_and_its_own(
    warm, cold, ask, hear, steer
) -> None:
    """What the unsteered row takes was computed unsteered."""
    clamp = steer((3, "clamp", 4.0))
    request = replace(ask(TEXT, steering=clamp, max_tokens=30), kl=True, top=3)
    await hear(warm, ask(TEXT, steering=clamp))
    [one] = await hear(warm, request)
    assert one.end.cached_tokens == 0, "its unsteered row knew nothing"
    nexts = turn(request, one, " Then?", ask, steering=clamp)
    for again in (replace(request, id="again"), replace(nexts, kl=True, top=3)):
        [own], [expected] = await hear(warm, again), await hear(cold, again)
        assert own.end.cached_tokens >= whole(len(TEXT))
        assert own.ids == expected.ids
        for a, b in zip(own.tokens, expected.tokens, strict=True):
            assert a.contrast.kl == pytest.approx(b.contrast.kl, abs=1e-3)
            assert a.contrast.kl > 0


async def test_what_other_arithmetic_computed_is_forgotten(
    warm, same, ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = "eager"
    monkeypatch.setattr(Runner, "arithmetic", property(lambda _: now))
    await same(warm, ask(TEXT))
    assert (await same(warm, ask(TEXT))).end.cached_tokens > 0
    now = "compiled"
    for cached in (False, True):
        own = await same(warm, ask(TEXT))
        assert (own.end.cached_tokens > 0) is cached
        assert own.end.arithmetic == ("compiled",)


async def test_memory_is_bounded_and_the_last_used_stays(make_engine, ask, hear) -> None:
    per_block = 3 * 2 * 2 * 8 * 4 * BLOCK  # layers, keys and values, heads, their size, float32
    engine = make_engine(prefix_cache=8 * per_block + 17)
    told = engine.capabilities
    assert (told.prefix_tokens, told.prefix_bytes) == (8 * BLOCK, 8 * per_block)
    often = ask(TEXT[: 2 * BLOCK + 1], max_tokens=1)
    for i in range(20):
        [reply] = await hear(engine, replace(often, id=f"often-{i}"))
        assert reply.end.cached_tokens == (2 * BLOCK if i else 0)
        await hear(engine, ask(f"{i:02d}" + TEXT[: 3 * BLOCK], max_tokens=1))
        assert engine.stats().cached <= told.prefix_tokens
    assert engine.stats().cached == told.prefix_tokens
    [long] = await hear(engine, ask(TEXT * 3, max_tokens=1))
    assert isinstance(long.end, Finish)
    [again] = await hear(engine, ask(TEXT * 3, max_tokens=1))
    assert again.end.cached_tokens == told.prefix_tokens, "a prompt larger than it fills it"


def test_a_prefix_cache_that_does_not_fit_the_memory_is_told_by_its_variable(make_engine) -> None:
    with pytest.raises(SteerdeckError, match=r"^the prefix cache.* GB .*STEERDECK_PREFIX_CACHE"):
        make_engine(prefix_cache=2**60)
