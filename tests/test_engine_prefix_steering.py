"""No steering ever meets what another left, however they follow each other."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import prefix_engines
import pytest
from prefix_engines import SPACE, TEXT, turn, whole

from server.engine.conditions import Condition, Crossing, Timing
from server.engine.types import Change, Failure, Steering, Where

warm, cold, same = prefix_engines.warm, prefix_engines.cold, prefix_engines.same  # fixtures


async def test_template_tokens_and_what_edits_do_not_touch_are_shared_with_the_unsteered(
    warm, same, ask, steer
) -> None:
    """Nothing was edited there by either; from the first edited token on nothing is shared."""
    plain = replace(ask(TEXT), steerable=(False,) * 40 + (True,) * (len(TEXT) - 40))
    clamped = replace(plain, id="clamped", steering=steer((3, "clamp", 4.0)))
    later = replace(plain, id="later", steering=steer((3, "clamp", 4.0, "generated")))
    await same(warm, plain)
    assert (await same(warm, clamped)).end.cached_tokens == whole(40)
    assert (await same(warm, later)).end.cached_tokens == whole(len(TEXT))


async def test_no_steering_ever_meets_what_another_left(
    make_engine, make_dictionary, ask, hear, steer
) -> None:
    """Prompts, replies and chats of all kinds of steering, over each other in any order."""
    both = make_dictionary("tiny"), make_dictionary("other", layer=0, seed=11)
    kinds = [
        Steering(),
        Steering(keep_norm=True),
        *(steer((3, "clamp", 6.0, where)) for where in Where),
        *(steer((3, "clamp", 6.0, where), keep_norm=True) for where in Where),
        steer((3, "clamp", 6.0, "all", "other")),
        steer((3, "clamp", 6.0, "all", "other"), keep_norm=True),
        steer((3, "clamp", 6.5)),
        steer((3, "add", 6.0)),
        steer((3, "scale", 6.0)),
        steer((3, "at_least", 6.0)),
        steer((4, "clamp", 6.0)),
        steer((3, "clamp", 6.0), (4, "clamp", 6.0)),
        steer((3, "clamp", 6.0, "prompt"), (3, "clamp", -6.0, "generated")),
        steer((3, "ablate", 0.0), (9, "add", 3.0, "generated")),
    ]
    warm = make_engine(dictionaries=both, prefix_cache=SPACE, max_rows=6)
    cold = make_engine(dictionaries=both)
    draw = random.Random(8)
    open_chats = [ask(TEXT[:40], steering=kind, logprobs=1, max_tokens=12) for kind in kinds]
    hits = 0
    for number in range(3):
        draw.shuffle(open_chats)
        replies = await hear(warm, *open_chats)
        expected = await hear(cold, *open_chats)
        for request, own, wanted in zip(open_chats, replies, expected, strict=True):
            assert own.ids == wanted.ids, request.steering
            for a, b in zip(own.tokens, wanted.tokens, strict=True):
                assert a.logprob == pytest.approx(b.logprob, abs=1e-3), request.steering
            hits += own.end.cached_tokens
        # Every chat goes on with another's words or its own, under another's steering or its own.
        said = [(one, reply) for one, reply in zip(open_chats, replies, strict=True)]
        steerings = draw.sample(kinds, len(kinds)) if number % 2 else kinds
        open_chats = [
            turn(*draw.choice(said), " Go on.", ask, steering=s, logprobs=1, max_tokens=12)
            for s in steerings
        ]
    assert hits > 500, "there was something to leak"


async def test_steering_that_waits_or_fades_takes_nothing_and_leaves_nothing(
    warm, same, ask, steer
) -> None:
    """It has to see its prompt: for its conditions, and for what the receipt tells of them."""
    clamp = steer((3, "clamp", 4.0))
    met = Condition("tiny", 5, Crossing.ABOVE, 0.1, latch=True)
    timings = Timing(when=met), Timing(first=3, last=9), Timing(half_life=4.0)
    kinds = [
        Steering(tuple(replace(edit, timing=timing) for edit in clamp.edits)) for timing in timings
    ]
    kinds.append(replace(clamp, aborts=(replace(met, value=1e9),)))
    for kind in kinds * 2:
        assert (await same(warm, ask(TEXT, steering=kind))).end.cached_tokens == 0
    assert (await same(warm, ask(TEXT, steering=clamp))).end.cached_tokens == 0
    for kind in kinds:
        assert (await same(warm, ask(TEXT, steering=kind))).end.cached_tokens == 0


async def test_a_reply_that_was_changed_live_leaves_its_part_before_the_change(
    warm, same, ask, steer
) -> None:
    first, second = steer((3, "clamp", 4.0)), steer((9, "add", 5.0))
    request = ask(TEXT, steering=first, changes=(Change(30, second),), max_tokens=60)
    reply = await same(warm, request)
    # Token 30 is the first to obey: it is made at the position of token 29.
    for steering, alike in ((first, len(TEXT) + 29), (second, 0), (Steering(), 0)):
        asked = turn(request, reply, " Why?", ask, steering=steering)
        assert (await same(warm, asked)).end.cached_tokens == whole(alike)


async def test_a_prompt_that_starts_over_takes_what_its_new_steering_knows(
    make_engine, make_model, same, ask, hear, steer
) -> None:
    """Steered live before its first token, in the middle of its prompt or while it waits."""
    model = make_model()
    engine = make_engine(model=model, prefix_cache=SPACE, chunk=16, max_rows=1)
    new = steer((3, "clamp", 4.0))
    await hear(engine, ask(TEXT, steering=new))
    changed: list[int] = []

    def change(*_: Any) -> None:
        if not changed:
            changed.extend(engine.steer(name, new) for name in ("live", "waiting", "unknown"))

    model.register_forward_pre_hook(change)
    live = ask(TEXT, id="live", steering=steer((9, "add", 2.0)))
    waiting = replace(live, id="waiting")
    unknown = ask(TEXT[::-1], id="unknown", steering=steer((9, "add", 2.0)))
    reply, waited, computed = await hear(engine, live, waiting, unknown)
    model._forward_pre_hooks.clear()
    assert changed == [0, 0, 0]
    assert (waited.ids, waited.end) == (reply.ids, reply.end)
    assert computed.end.cached_tokens == 0
    assert (await same(engine, replace(unknown, id="known", steering=new))).ids == computed.ids
    assert reply.end.cached_tokens == whole(len(TEXT))
    other = await same(engine, replace(live, id="other", steering=new))
    assert reply.ids == other.ids
    assert reply.end.tokens_edited == other.end.tokens_edited
    assert (await same(engine, replace(live, id="old"))).end.cached_tokens == 0


async def test_only_what_was_seen_to_be_finite_is_kept(warm, same, ask, hear, steer) -> None:
    wild = steer(*((i, "add", 3.4e38) for i in range(8)))
    for _ in range(2):
        [reply] = await hear(warm, ask(TEXT, steering=wild))
        assert isinstance(reply.end, Failure)
        assert warm.stats().cached == 0
    # On generated tokens only: the prompt is fine and is kept, the reply is not.
    wild = replace(wild, edits=tuple(replace(e, where=Where.GENERATED) for e in wild.edits))
    [reply] = await hear(warm, ask(TEXT, steering=wild))
    assert isinstance(reply.end, Failure)
    assert warm.stats().cached == whole(len(TEXT))
    for _ in range(3):
        assert (await same(warm, ask(TEXT, max_tokens=40))).end.cached_tokens == whole(len(TEXT))
