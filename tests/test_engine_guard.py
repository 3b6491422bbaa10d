"""The coherence guard: what raises an alarm, what follows, and that a replay is the same."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dictionaries
from dictionaries.cards import Cards
from dictionaries.edits import Op
from dictionaries.formats import open_dictionary
from server.engine import engine as engines
from server.engine.contrast import entropies
from server.engine.engine import SlotEngine
from server.engine.guard import Alarm, Guard, Mode, Signal
from server.engine.load import load_model
from server.engine.mount import Mount
from server.engine.prefix import NEUTRAL
from server.engine.preparing import Prepared
from server.engine.text import render
from server.engine.types import (
    Change,
    Delta,
    FeatureEdit,
    Finish,
    FinishReason,
    Request,
    Sampling,
    Steering,
    Token,
)
from server.engine.warden import Warden, weaker
from server.errors import BadRequest

TEXT = "The bridge is red."
NEVER = Guard(Mode.WARN, repetition=None, low=None)  # watches, and finds nothing


def heard(
    guard: Guard, tokens: Iterable[int], entropy: float = 1.0, kl: float = 0.0
) -> list[Alarm]:
    plain = Prepared(Steering(), {}, (False, False), (NEUTRAL, NEUTRAL), {}, False)
    warden = Warden(guard, lambda before, steering: replace(before, steering=steering))
    verdicts = [warden.hear(token, entropy, kl, plain) for token in tokens]
    return [verdict.alarm for verdict in verdicts if verdict is not None]


def test_a_loop_is_an_alarm_however_long_it_is_and_plain_text_is_none() -> None:
    guard = Guard(Mode.WARN)
    assert heard(guard, range(500)) == []
    said_twice = [*range(100), *range(3), *range(100, 200)]
    assert heard(guard, said_twice) == [], "a phrase of three comes again"
    for period in (1, 2, 7, 60):
        [alarm, *_] = heard(guard, [i % period for i in range(200)])
        assert alarm.signal is Signal.REPETITION
        assert alarm.at <= max(period + 2 + 10, guard.window), "within ten tokens of the loop"
        assert alarm.value >= 0.55
    assert heard(guard, [i % 300 for i in range(900)]) == [], "too long ago to be a loop"
    assert heard(replace(guard, repetition=None), [7] * 200) == []


def test_entropy_is_bounded_on_both_sides_and_kl_from_above() -> None:
    guard, tokens = Guard(Mode.WARN, repetition=None, high=4.0, kl=3.0), range(40)
    low, high = heard(guard, tokens, 0.001), heard(guard, tokens, 4.1)
    assert [a.at for a in low] == [a.at for a in high] == [15, 31], "a full window each"
    assert {a.signal for a in (*low, *high)} == {Signal.ENTROPY}
    assert (low[0].bound, high[0].bound) == (0.002, 4.0)
    assert heard(guard, tokens, 2.0, 2.9) == []
    [first, _] = heard(guard, tokens, 2.0, 3.1)
    assert (first.signal, first.value) == (Signal.KL, pytest.approx(3.1))
    assert heard(replace(guard, low=None), tokens, 0.0) == []
    assert heard(replace(guard, high=1.0, window=4), range(4), 1.5)[0].bound == 1.0


def test_entropy_is_that_of_the_distribution() -> None:
    even, sure = torch.zeros(8), torch.tensor([0.0, *[-math.inf] * 7])
    assert entropies(torch.stack([even, sure])) == pytest.approx([math.log(8), 0.0])


def test_a_weaker_steering_is_nearer_to_none_for_every_op() -> None:
    strengths = {"add": -4.0, "clamp": 6.0, "at_least": 2.0, "scale": 5.0, "ablate": 0.0}
    edits = [
        FeatureEdit("d", i, Op(op), s, Op(op).edit(s))
        for i, (op, s) in enumerate({**strengths, "at_most": 1.0}.items())
    ]
    half = weaker(Steering(tuple(edits), keep_norm=True), 0.5)
    assert [edit.strength for edit in half.edits] == [-2.0, 3.0, 1.0, 3.0, 0.0, 1.0]
    assert all(edit.edit == edit.op.edit(edit.strength) for edit in half.edits)
    assert half.keep_norm


LOUD = 60.0


@pytest.fixture
def loud(steer: Callable[..., Steering]) -> Steering:
    """Strong enough that the tiny model says the same thing over and over."""
    return steer((3, "add", LOUD), (9, "ablate", 0.0))


async def test_back_off_is_a_live_change_that_replays_without_a_guard(
    make_engine, ask, hear, loud
) -> None:
    engine = make_engine(chunk=5)
    guard = Guard(Mode.BACK_OFF, low=None, window=6, factor=0.5)
    request = replace(ask(TEXT, steering=loud, max_tokens=48), guard=guard)
    [reply, beside] = await hear(engine, request, ask(TEXT, max_tokens=48))
    steps = [alarm for alarm in reply.end.alarms if alarm.action is Mode.BACK_OFF]
    assert len(steps) >= 2
    assert [alarm.left for alarm in steps] == [0.5 ** (i + 1) for i in range(len(steps))]
    assert [alarm for delta in reply.deltas for alarm in delta.alarms] == list(reply.end.alarms)
    assert [change.at for change in reply.end.timeline] == [0, *(alarm.at + 1 for alarm in steps)]
    for change, alarm in zip(reply.end.timeline[1:], steps, strict=True):
        assert [e.strength for e in change.steering.edits] == [LOUD * alarm.left, 0.0]
    changes = reply.end.timeline[1:]
    again, _ = await hear(
        engine,
        ask(TEXT, steering=loud, changes=changes, max_tokens=len(reply.ids)),
        ask("another", max_tokens=9),
    )
    assert again.ids == reply.ids
    assert again.end.timeline == reply.end.timeline
    assert beside.ids == (await hear(engine, ask(TEXT, max_tokens=48)))[0].ids


async def test_warn_only_tells_and_stop_ends(make_engine, ask, hear, loud) -> None:
    engine = make_engine()
    request = ask(TEXT, steering=loud, max_tokens=40)
    guard = Guard(Mode.WARN, low=None, window=6)
    [plain] = await hear(engine, request)
    [told] = await hear(engine, replace(request, id="told", guard=guard))
    assert told.ids == plain.ids
    assert [alarm.action for alarm in told.end.alarms]
    assert {alarm.left for alarm in told.end.alarms} == {1.0}
    [ended] = await hear(engine, replace(request, id="ended", guard=replace(guard, mode=Mode.STOP)))
    [alarm] = ended.end.alarms
    assert alarm == replace(told.end.alarms[0], action=Mode.STOP)
    assert ended.end.reason is FinishReason.GUARD
    assert ended.ids == plain.ids[: alarm.at + 1]
    assert engine.stats().running == 0


async def test_where_nothing_is_left_to_lower_the_reply_ends(make_engine, ask, hear, steer) -> None:
    """Alarms that strengths have nothing to do with: any entropy is too high here."""
    guard = Guard(Mode.BACK_OFF, repetition=None, high=1e-9, low=None, window=4, factor=0.5)
    engine = make_engine()
    request = ask(TEXT, steering=steer((3, "add", 1.0)), max_tokens=60)
    [reply] = await hear(engine, replace(request, guard=guard))
    assert [a.left for a in reply.end.alarms] == [0.5, 0.25, 0.125, 0.0625, 0.0, 0.0]
    assert reply.end.alarms[-1].action is Mode.STOP
    assert reply.end.reason is FinishReason.GUARD
    assert reply.end.timeline[-1].steering.edits == ()


async def test_changes_from_outside_begin_anew_and_stay_scheduled(
    make_engine, ask, hear, steer
) -> None:
    guard = Guard(Mode.BACK_OFF, repetition=None, high=1e-9, low=None, window=4, factor=0.5)
    change = Change(7, steer((5, "add", 2.0)))
    request = ask(TEXT, steering=steer((3, "add", 1.0)), changes=(change,), max_tokens=13)
    [reply] = await hear(make_engine(), replace(request, guard=guard))
    told = [
        (change.at, [(e.feature, e.strength) for e in change.steering.edits])
        for change in reply.end.timeline
    ]
    assert told == [
        (0, [(3, 1.0)]), (4, [(3, 0.5)]), (7, [(5, 2.0)]), (8, [(5, 1.0)]), (12, [(5, 0.5)])
    ]  # fmt: skip


async def test_a_step_back_that_another_change_overtakes_is_only_a_warning(
    make_engine, ask, hear, steer
) -> None:
    guard = Guard(Mode.BACK_OFF, repetition=None, high=1e-9, low=None, window=4, factor=0.5)
    change = Change(4, steer((3, "add", 0.5)))  # what the guard itself would go down to
    request = ask(TEXT, steering=steer((3, "add", 1.0)), changes=(change,), max_tokens=9)
    [reply] = await hear(make_engine(), replace(request, guard=guard))
    assert [(a.at, a.action, a.left) for a in reply.end.alarms] == [
        (3, Mode.WARN, 1.0), (7, Mode.BACK_OFF, 0.5)
    ]  # fmt: skip
    assert [c.steering.edits[0].strength for c in reply.end.timeline] == [1.0, 0.5, 0.25]


async def test_an_alarm_on_the_token_that_ends_a_reply_by_itself_is_only_told(
    make_engine, ask, hear, steer
) -> None:
    guard = Guard(Mode.WARN, repetition=None, high=1e-9, low=None, window=4)
    request = ask(TEXT, steering=steer((3, "add", 1.0)), max_tokens=guard.window)
    guarded = [replace(request, id=mode, guard=replace(guard, mode=mode)) for mode in Mode]
    for reply in await hear(make_engine(), *guarded):
        [alarm] = reply.deltas[-1].alarms
        assert reply.end.alarms == (alarm,)
        assert (alarm.at, alarm.action, alarm.left) == (3, Mode.WARN, 1.0)
        assert reply.end.reason is FinishReason.LENGTH
        assert len(reply.end.timeline) == 1


async def test_a_step_back_that_a_live_change_overtakes_is_a_warning_in_the_end(
    make_engine, ask, hear, steer, monkeypatch
) -> None:
    """Its chunk was sent: the change comes between two steps, to what the guard goes down to."""
    guard = Guard(Mode.BACK_OFF, repetition=None, high=1e-9, low=None, window=4, factor=0.5)
    request = ask(TEXT, steering=steer((3, "add", 1.0)), max_tokens=9)
    engine, own, held = make_engine(), engines.deliver, []

    def deliver(posts: Any) -> None:
        if not held and any(isinstance(e, Delta) and e.alarms for _, e in posts):
            held.append(engine.steer(request.id, steer((3, "add", 0.5))))
        own(posts)

    monkeypatch.setattr(engines, "deliver", deliver)
    [reply] = await hear(engine, replace(request, guard=guard))
    assert held == [4]
    [sent, _] = [alarm for delta in reply.deltas for alarm in delta.alarms]
    assert sent.action is Mode.BACK_OFF
    assert [(a.at, a.action, a.left) for a in reply.end.alarms] == [
        (3, Mode.WARN, 1.0), (7, Mode.BACK_OFF, 0.5)
    ]  # fmt: skip
    assert [c.steering.edits[0].strength for c in reply.end.timeline] == [1.0, 0.5, 0.25]


async def test_a_step_back_reads_nothing(make_engine, ask, hear, loud, monkeypatch) -> None:
    """The step that it is in would wait for a disk, and everybody with it."""
    engine = make_engine()
    guard = Guard(Mode.BACK_OFF)
    request = replace(ask(TEXT, steering=loud, max_tokens=48), guard=guard)
    engine.check(request)  # its own rows

    def unread(*_: Any) -> None:
        raise AssertionError("rows are read in a step")

    for read in ("prepare", "watched"):
        monkeypatch.setattr(Mount, read, unread)
    [reply] = await hear(engine, request)
    assert isinstance(reply.end, Finish)
    assert any(alarm.left < 1 for alarm in reply.end.alarms)


async def test_kl_comes_from_a_second_row_and_guards_alike(make_engine, ask, hear, loud) -> None:
    engine = make_engine(max_rows=2)
    request = ask(TEXT, steering=loud, max_tokens=20)
    guard = replace(NEVER, kl=0.5, window=4)
    [reply] = await hear(engine, replace(request, guard=guard))
    assert {alarm.signal for alarm in reply.end.alarms} == {Signal.KL}
    measured = [token.contrast.kl for token in reply.tokens[:4]]
    assert reply.end.alarms[0].value == pytest.approx(sum(measured) / 4)
    [calm] = await hear(engine, replace(ask(TEXT, max_tokens=20), guard=guard))
    assert calm.end.alarms == ()
    with pytest.raises(BadRequest, match="kl out of guard"):
        make_engine(max_rows=1).check(replace(request, guard=guard))


# --- foghorn, features set far too strong ---

BUNDLE = Path(dictionaries.__file__).parent / "foghorn"
QUESTIONS = ("What should I do this weekend?", "Tell me a short story.")
SLUGS = ("golden-gate-bridge", "great-wall", "river", "lighthouses")
TOO_STRONG = 8  # times the strength of the preset, which is inside the safe band


def loops(tokens: list[Token]) -> float:
    """Share of tokens that end three which came before."""
    grams = list(zip(*(tokens[i:] for i in range(3)), strict=False))
    return 1.0 - len({tuple(t.id for t in gram) for gram in grams}) / max(1, len(grams))


def likelihood(tokens: list[Token]) -> float:
    """Mean log probability under the unsteered model, in nats a token."""
    found = [token.contrast.unsteered_logprob for token in tokens if token.contrast is not None]
    return sum(found) / len(found)


@pytest.mark.skipif(not (BUNDLE / "model").exists(), reason="the bundled model is not there")
async def test_foghorn_backs_off_into_readable_text(hear: Any) -> None:
    """Readable is what the unsteered model finds as likely as replies inside the safe band: these
    have -2.5 nats a token (nine of ten above -3.3), replies at eight times as much -5 to -10. And
    it does not loop, and comes to an end by itself. Judged is what follows the last step back.
    """
    model, tokenizer = load_model(BUNDLE / "model")
    opened = open_dictionary(BUNDLE / "sae", id="foghorn")
    presets = json.loads((BUNDLE / "sae" / "presets.json").read_text())
    edits = [preset["edits"][0] for preset in presets if preset["name"] in SLUGS]
    assert len(edits) == len(SLUGS)
    cards = Cards.open(BUNDLE / "sae" / "cards.sqlite")
    requests = []
    for edit, question in itertools.product(edits, QUESTIONS):
        card = cards.get(edit["feature"])
        assert card is not None
        assert card.maximum is not None
        op, strength = Op(edit["op"]), TOO_STRONG * edit["strength"] * card.maximum
        four = op.edit(strength)
        steering = Steering((FeatureEdit("foghorn", card.feature, op, strength, four),))
        prompt = render(tokenizer, [{"role": "user", "content": question}])
        sampling = Sampling(temperature=0.6, top_p=0.9, seed=1, max_tokens=120)
        name = f"{card.feature} {question}"
        wild = Request(name, prompt.ids, prompt.steerable, sampling, steering, kl=True)
        requests += [wild, replace(wild, id=f"tame {name}", guard=Guard(Mode.BACK_OFF, kl=3.5))]
    cards.close()
    engine = SlotEngine(model, tokenizer, {"foghorn": opened}, max_rows=32, max_context=256)
    engine.start()
    try:
        replies = await hear(engine, *requests)
    finally:
        engine.close()
    wild, tame = replies[::2], replies[1::2]
    assert {reply.end.reason for reply in wild} == {FinishReason.LENGTH}
    assert min(loops(reply.tokens) for reply in wild) > 0.5
    assert {reply.end.reason for reply in tame} == {FinishReason.STOP}
    tails = [reply.tokens[reply.end.timeline[-1].at :] for reply in tame]
    joined = [token for tail in tails for token in tail]
    assert len(joined) > 80
    assert likelihood(joined) > -3.3 > -4.5 > likelihood([t for one in wild for t in one.tokens])
    assert sorted(map(loops, tails))[len(tails) // 2] < 0.2
