"""What was computed before is used again where it is the same, and nowhere else."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from dictionaries.edits import Op
from server.engine.conditions import Condition, Crossing, Timing
from server.engine.prefix import BLOCK, NEUTRAL, Mark, PrefixIndex, marks
from server.engine.runner import Runner
from server.engine.types import (
    Change,
    Failure,
    FeatureEdit,
    Finish,
    FinishReason,
    Request,
    Steering,
    Where,
)

SPACE = 2**22  # bytes; the tiny models keep some hundred blocks in it
TEXT = "The bridge is long and red, and fog lies on the bay below it in the morning."


@pytest.fixture
def warm(make_engine) -> Any:
    return make_engine(prefix_cache=SPACE)


@pytest.fixture
def cold(make_engine) -> Any:
    """What it must not be told from."""
    return make_engine()


@pytest.fixture
def same(cold, hear) -> Callable[..., Any]:
    """`await same(engine, request)`: its reply, which is the cold engine's: tokens and chances."""

    async def same(engine: Any, request: Request) -> Any:
        sampling = replace(request.sampling, logprobs=5)
        request = replace(request, sampling=sampling)
        [own] = await hear(engine, request)
        [expected] = await hear(cold, request)
        assert own.ids == expected.ids
        for got, wanted in zip(own.tokens, expected.tokens, strict=True):
            assert got.logprob == pytest.approx(wanted.logprob, abs=1e-3)
            assert [t.logprob for t in got.top] == pytest.approx(
                [t.logprob for t in wanted.top], abs=1e-3
            )
        assert replace(own.end, cached_tokens=0) == expected.end
        return own

    return same


def turn(
    before: Request, reply: Any, text: str, ask: Callable[..., Request], **options: Any
) -> Any:
    """The next request of a chat: all that was said, and `text`."""
    new = ask(text, **options)
    said = before.prompt + tuple(reply.ids)
    return replace(
        new,
        prompt=said + new.prompt,
        steerable=before.steerable + (True,) * len(reply.ids) + new.steerable,
    )


def whole(tokens: int) -> int:
    return tokens // BLOCK * BLOCK


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


# --- Marks and the index, without a model ---


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
