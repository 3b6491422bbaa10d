"""Edits that do not always act: the engine against a forward pass written out by hand."""

from __future__ import annotations

from dataclasses import replace

import conditions_by_hand
import pytest
from conditions_by_hand import OPEN, RARE, START, TEXT, ByHand, above, below, edit

from server.engine.conditions import Met, Timing
from server.engine.types import Change, Steering

three = conditions_by_hand.three  # fixture

CASES = {
    "this token": [edit(3, "clamp", 9.0, when=above(11, 0.6))],
    "below": [edit(3, "clamp", 9.0, when=below(11, 0.2)), edit(20, "add", 1.0)],
    "latched": [edit(3, "clamp", 9.0, when=above(9, 0.9, latch=True))],
    "its own feature": [edit(3, "scale", -2.0, when=above(3, 4.0))],
    "an earlier site": [edit(3, "add", 8.0, "high", when=above(5, 3.5, "low", latch=True))],
    "another dictionary there": [
        edit(3, "add", 8.0, "high", when=above(8, 0.8)),
        edit(4, "clamp", 6.0, when=below(5, 0.1, "low")),
    ],
    "window": [edit(3, "clamp", 9.0, first=2, last=6), edit(9, "add", 4.0, last=1)],
    "decay": [edit(3, "add", 9.0, half_life=3.0), edit(9, "clamp", 7.0, first=4, half_life=1.5)],
    "all together": [
        edit(3, "clamp", 9.0, when=below(11, 0.3, latch=True), last=8, half_life=4.0),
        edit(9, "add", 3.0, where="generated", when=above(5, 0.2, "low")),
    ],
}


@pytest.mark.parametrize("case", CASES)
async def test_a_reply_is_that_of_the_forward_pass_written_out(
    case, make_engine, make_model, three, ask, hear, steer
) -> None:
    """Among other replies, its prompt in chunks, and moved to another row meanwhile."""
    request = ask(TEXT, steering=Steering(tuple(CASES[case])), max_tokens=14)
    hand = ByHand(make_model(), request, *three)
    expected = hand.reply(14)
    engine = make_engine(dictionaries=three, chunk=5)
    first = ask("short", steering=steer((3, "add", 2.0)), max_tokens=3)
    _, heard, _ = await hear(engine, first, request, ask(TEXT, max_tokens=14))
    assert heard.ids == expected
    plain = ByHand(make_model(), ask(TEXT), *three).reply(14)
    assert heard.ids != plain, "it must show"
    ungated = tuple(replace(one, timing=Timing()) for one in CASES[case])
    [always] = await hear(engine, ask(TEXT, steering=Steering(ungated), max_tokens=14))
    assert heard.ids != always.ids, "and not always act"
    for met in heard.end.conditions:
        held = [at for at in hand.met[met.condition] if at < 13]  # the last token is not read
        assert met.at == (held[0] if held else None)


@pytest.mark.parametrize("architecture", ["topk", "standard"])
async def test_conditions_read_what_the_dictionary_defines(
    architecture, make_engine, make_model, make_dictionary, ask, hear
) -> None:
    """A TopK feature fires among the k largest only, on each token by itself."""
    own = make_dictionary(architecture=architecture, seed=9)
    steering = Steering((edit(3, "add", 9.0, when=above(20, 0.0)), edit(9, "clamp", 2.0)))
    request = ask(TEXT, steering=steering, max_tokens=14)
    hand = ByHand(make_model(), request, own)
    expected = hand.reply(14)
    [held] = hand.met.values()
    assert 2 < len(held) < START + 10
    engine = make_engine(dictionaries=[own], chunk=5)
    heard, _ = await hear(engine, request, ask(TEXT, steering=Steering((edit(5, "add", 1.0),))))
    assert heard.ids == expected


async def test_edits_are_counted_where_they_acted(make_engine, three, ask, hear) -> None:
    engine = make_engine(dictionaries=three, chunk=5)
    window = Steering((edit(3, "add", 1.0, first=2, last=6), edit(4, "add", 1.0, "high", last=3)))
    never = Steering((edit(3, "add", 1.0, when=above(9, 1e5)),))
    heard = await hear(
        engine,
        ask(TEXT, steering=window, max_tokens=14),
        ask(TEXT, steering=never, max_tokens=14),
        ask(TEXT, max_tokens=14),
        ask(TEXT, steering=Steering((edit(3, "add", 1e-6),)), max_tokens=14),
    )
    counts = [one.end.tokens_edited for one in heard]
    assert counts == [OPEN + 7, 0, 0, OPEN + 13]
    assert heard[1].ids == heard[2].ids
    assert heard[1].end.conditions == (Met(above(9, 1e5), None),)
    steering = Steering((edit(3, "add", 1.0, last=3), edit(4, "add", 1.0, "high")))
    closed = replace(ask(TEXT, steering=steering), steerable=(False,) * START)
    early = replace(closed, id="early", steering=Steering(steering.edits[:1]))
    assert [one.end.tokens_edited for one in await hear(engine, closed, early)] == [11, 4]


async def test_replies_that_come_together_each_meet_their_conditions(
    make_engine, three, ask, hear, read
) -> None:
    """They share no prompt: which conditions held in it belongs to nobody else."""
    engine = make_engine(dictionaries=three)
    latched = Steering((edit(3, "clamp", 9.0, where="generated", when=replace(RARE, latch=True)),))
    [alone] = await hear(engine, ask(TEXT, steering=latched))
    streams = engine.submit_all([ask(TEXT, steering=latched) for _ in range(3)])
    for stream in streams:
        reply = await read(stream)
        assert (reply.ids, reply.end) == (alone.ids, alone.end)


async def test_a_latch_outlives_a_live_change(make_engine, three, ask, hear) -> None:
    engine = make_engine(dictionaries=three)
    latched = Steering((edit(3, "clamp", 9.0, "high", when=replace(RARE, latch=True)),))
    [kept] = await hear(engine, ask(TEXT, steering=latched))
    changes = tuple(Change(at, latched) for at in (1, 2, 7))
    [changed] = await hear(engine, ask(TEXT, steering=latched, changes=changes))
    assert changed.ids == kept.ids
    [late] = await hear(engine, ask(TEXT, changes=changes[:1]))
    assert late.ids != kept.ids
