"""Edits that do not always act: the engine against a forward pass written out by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dictionaries.dictionary import Dictionary
from dictionaries.edits import Op
from server.engine.batch import Batch, Span
from server.engine.conditions import Condition, Crossing, Thinking, Timing
from server.engine.regions import Marks, Region
from server.engine.runner import Runner
from server.engine.text import render
from server.engine.types import Change, FeatureEdit, FinishReason, Met, Request, Steering, Where
from server.errors import Unsteerable

TEXT = "The bridge is red."
START = len(TEXT)  # position of the first reply token: a token is a byte
OPEN = START - 1  # tokens of the prompt that may be edited: not the first


def edit(feature: int, op: str, strength: float, name: str = "tiny", **timing: Any) -> FeatureEdit:
    where = Where(timing.pop("where", "all"))
    four = Op(op).edit(strength)
    return FeatureEdit(name, feature, Op(op), strength, four, where, Timing(**timing))


def above(feature: int, value: float, name: str = "tiny", *, latch: bool = False) -> Condition:
    return Condition(name, feature, Crossing.ABOVE, value, latch)


def below(feature: int, value: float, name: str = "tiny", *, latch: bool = False) -> Condition:
    return Condition(name, feature, Crossing.BELOW, value, latch)


class ByHand:
    """The whole sequence through the plain model at every token, edited by the words of the docs.

    met: the conditions, and the reply tokens (negative: of the prompt) at which each held.
    """

    def __init__(self, model: Any, request: Request, *dictionaries: Dictionary) -> None:
        self.model, self.request = model, request
        self.start, self.met = len(request.prompt), dict[Condition, list[int]]()
        self.ids, self.open = list(request.prompt), list(request.steerable)
        self.thinking = [False] * self.start
        self._now: dict[Condition, Tensor] = {}
        for one in dictionaries:
            layer = model.model.layers[one.info.site.layer]
            layer.register_forward_hook(lambda *a, one=one: self._edited(one, a[2]))

    def reply(self, count: int, marks: dict[int, bool] | None = None) -> list[int]:
        for _ in range(count):
            token = self.model(torch.tensor([self.ids])).logits[0, -1].argmax().item()
            self.ids.append(token)
            self.open.append(token < 256)
            self.thinking.append((marks or {}).get(token, self.thinking[-1]))
        return self.ids[self.start :]

    def _edited(self, dictionary: Dictionary, x: Tensor) -> Tensor:
        f = dictionary.encode(x[0])
        name, touchable = dictionary.info.id, torch.tensor(self.open)
        for condition in self.request.steering.conditions:
            if condition.dictionary == name:
                own, value = f[:, condition.feature], condition.value
                holds = (own > value if condition.op is Crossing.ABOVE else own < value) & touchable
                self.met[condition] = (holds.nonzero()[:, 0] - self.start).tolist()
                self._now[condition] = holds.cumsum(0) > 0 if condition.latch else holds
        y = x.clone()
        for one in self.request.steering.edits:
            if one.dictionary == name:
                scale, shift, floor, ceiling = one.edit
                before = f[:, one.feature]
                after = (scale * before + shift).clamp(floor, ceiling)
                change = self._weights(one, touchable) * (after - before)
                y[0] += change[:, None] * dictionary.rows([one.feature]).dec[0]
        return y

    def _weights(self, one: FeatureEdit, touchable: Tensor) -> Tensor:
        at, timing = torch.arange(len(self.ids)) - self.start, one.timing
        acts, thinking = touchable.clone(), torch.tensor(self.thinking)
        if one.where is not Where.ALL:
            acts &= (at < 0) if one.where is Where.PROMPT else (at >= 0)
        if timing.first is not None:
            acts &= at >= timing.first
        if timing.last is not None:
            acts &= at <= timing.last
        if timing.thinking is not None:
            acts &= (at >= 0) & (thinking == (timing.thinking is Thinking.ONLY))
        if timing.when is not None:
            acts &= self._now[timing.when]
        weights = acts.float()
        if timing.half_life is not None:
            weights *= 0.5 ** ((at - (timing.first or 0)).clamp(min=0) / timing.half_life)
        return weights


RARE = above(5, 3.1, "low")  # in an unsteered reply to TEXT at prompt token 2 and reply token 2, 8
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


@pytest.fixture(scope="module")
def three(make_dictionary: Callable[..., Dictionary], dictionary: Dictionary) -> list[Dictionary]:
    """At layers 0, 1 and 2."""
    low, high = make_dictionary("low", layer=0, seed=5), make_dictionary("high", layer=2, seed=6)
    return [low, dictionary, high]


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


async def test_abort_ends_the_reply_where_the_condition_holds(
    make_engine, make_model, three, ask, hear
) -> None:
    high = above(5, 4.5, "low")
    request = ask(TEXT, steering=Steering(aborts=(high,)), max_tokens=30)
    hand = ByHand(make_model(), request, *three)
    ids, inside = hand.reply(30), hand.met[high][0]
    assert inside > 0
    engine = make_engine(dictionaries=three, chunk=5)
    [heard] = await hear(engine, request)
    assert heard.end.reason is FinishReason.ABORT
    assert heard.ids == ids[: inside + 1], "up to the token that met it"
    assert heard.end.conditions == (Met(high, inside),)
    assert heard.end.tokens_edited == 0
    in_prompt = Steering(aborts=(below(9, 0.1),))
    early, late = await hear(
        engine, replace(request, id="early", steering=in_prompt), ask(TEXT, max_tokens=4)
    )
    assert (early.ids, early.end.reason) == ([], FinishReason.ABORT)
    assert early.end.conditions[0].at == -OPEN, "not at the first token, which nothing reads"
    assert late.ids == ids[:4]
    assert engine.stats().running == 0


def test_what_is_left_of_a_steering_watches_the_features_it_names(make_engine) -> None:
    """Also where an abort was an edit's condition, and comes elsewhere in line without it."""
    preparer = make_engine()._runner.steerer
    first, second = above(5, 1.0), above(9, 1.0)
    aborts = (second, first)
    before = preparer.prepare(Steering((edit(3, "add", 1.0, when=first),), aborts=aborts))
    left = preparer.lowered(before, Steering(aborts=aborts))
    whole = preparer.prepare(Steering(aborts=aborts))
    assert left.steering.conditions == whole.steering.conditions == (second, first)
    assert torch.equal(left.watched["tiny"].enc, whole.watched["tiny"].enc)


async def test_an_abort_that_comes_live_looks_from_then_on(make_engine, three, ask, hear) -> None:
    """A condition that held before as a `when` ends nothing in hindsight."""
    engine = make_engine(dictionaries=three)
    steering = Steering((edit(3, "add", 0.0, when=RARE),))
    change = Change(4, Steering(aborts=(RARE,)))
    [heard] = await hear(engine, ask(TEXT, steering=steering, changes=(change,), max_tokens=30))
    assert heard.end.reason is FinishReason.ABORT
    assert len(heard.ids) == 9
    assert heard.end.conditions == (Met(RARE, 2 - START),)


async def test_a_latch_outlives_a_live_change(make_engine, three, ask, hear) -> None:
    engine = make_engine(dictionaries=three)
    latched = Steering((edit(3, "clamp", 9.0, "high", when=replace(RARE, latch=True)),))
    [kept] = await hear(engine, ask(TEXT, steering=latched))
    changes = tuple(Change(at, latched) for at in (1, 2, 7))
    [changed] = await hear(engine, ask(TEXT, steering=latched, changes=changes))
    assert changed.ids == kept.ids
    [late] = await hear(engine, ask(TEXT, changes=changes[:1]))
    assert late.ids != kept.ids


@pytest.mark.parametrize("side", Thinking)
async def test_thinking_is_told_by_its_marks(
    side, make_engine, make_model, three, ask, hear
) -> None:
    """Any tokens may be the marks: here all that there are."""
    plain = ByHand(make_model(), ask(TEXT)).reply(16)
    marks = {token: token < 100 for token in range(256)}
    steering = Steering((edit(3, "add", 3.0, thinking=side),))
    request = ask(TEXT, steering=steering, max_tokens=16)
    hand = ByHand(make_model(), request, *three)
    expected = hand.reply(16, marks)
    assert {True, False} == set(hand.thinking[START:])
    engine = make_engine(dictionaries=three)
    engine._vocabulary.marks = Marks(marks, {})
    [heard] = await hear(engine, request)
    assert heard.ids == expected != plain
    engine._vocabulary.marks = Marks({}, {plain[2]: True, plain[8]: False})
    [calling] = await hear(engine, ask(TEXT, steering=Steering((edit(3, "add", 0.0),))))
    assert calling.end.tokens_edited == OPEN + 2 + 2, "the call is left alone, marks and all"


async def test_the_marks_of_a_raw_prompt_count(make_engine, three, ask, hear) -> None:
    always = ask(TEXT, steering=Steering((edit(3, "add", 3.0, where="generated"),)))
    thinking = Steering((edit(3, "add", 3.0, thinking=Thinking.ONLY),))
    said = replace(always, id="said", steering=thinking)
    engine = make_engine(dictionaries=three)
    engine._vocabulary.marks = Marks({always.prompt[0]: True}, {})
    heard = await hear(engine, always, said, replace(said, id="raw", raw=True))
    edited = [reply.end.tokens_edited for reply in heard]
    assert edited[0] == edited[2] > edited[1] == 0
    assert heard[0].ids == heard[2].ids != heard[1].ids


def test_marks_are_tokens_and_only_the_template_opens_in_a_prompt(tokenizer) -> None:
    thinking = copy.deepcopy(tokenizer)
    thinking.add_tokens(["<think>", "</think>", "<tool_call>"])
    begin, end = thinking.convert_tokens_to_ids(["<think>", "</think>"])
    marks = Marks.of(thinking)
    assert marks == Marks({begin: True, end: False}, {}), "a mark without its other half is none"
    assert Marks.of(tokenizer) == Marks({}, {})
    assert Region(marks, (7, begin), (True, False)).thinking
    assert not Region(marks, (7, begin), (True, True)).thinking
    region = Region(marks, (begin, end), (False, False))
    assert not region.thinking
    region.enter(begin)
    assert region.thinking


def test_a_tool_call_is_left_alone_when_it_is_made_as_when_it_comes_back(tokenizer) -> None:
    calling = copy.deepcopy(tokenizer)
    calling.add_tokens(["<tool_call>", "</tool_call>"])
    said = "I look. <tool_call>{x}</tool_call><tool_call>{y}</tool_call> So."
    made = calling(said, add_special_tokens=False)["input_ids"]
    prompt = render(calling, [{"role": "assistant", "content": said}])
    at = len(calling("<|begin|><|role|>assistant\n", add_special_tokens=False)["input_ids"])
    assert prompt.ids[at : at + len(made)] == tuple(made)
    region, flags = Region(Marks.of(calling), (), ()), []
    for token in made:
        region.enter(token)
        flags.append(not region.calling)
    assert prompt.steerable[at : at + len(made)] == tuple(flags)
    assert not all(flags)


def test_channels_of_gpt_oss_tell_thinking_and_tool_calls_and_no_header_is_edited(
    tokenizer,
) -> None:
    harmony = copy.deepcopy(tokenizer)
    names = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>")
    harmony.add_special_tokens({"additional_special_tokens": list(names)})
    marks = Marks.of(harmony)
    assert marks.thinks

    def ids(text: str) -> list[int]:
        return harmony(text, add_special_tokens=False)["input_ids"]

    spelled = ids("<|channel|>analysis<|message|>")  # by the user, who cannot open anything
    parts = [
        (ids("<|start|>system<|message|># Channels: analysis, final.<|end|>"), False),
        (ids("<|start|>user<|message|>"), False),
        (spelled, True),
        (ids("<|end|><|start|>assistant"), False),
    ]
    flags = [(token, written) for part, written in parts for token in part]
    assert not Region(marks, *zip(*flags[: len(flags) - len(parts[-1][0])], strict=True)).thinking
    region = Region(marks, *zip(*flags, strict=True))
    assert region.calling, "the header is the template's"
    for part, thinking, calling in [
        ("<|channel|>analysis<|message|>", True, False),
        ("Let me see: a to=b.", True, False),
        ("<|end|><|start|>assistant", False, True),
        (" to=functions.sum<|channel|>commentary json<|message|>", False, True),
        ('{"a": 1}', False, True),
        ("<|call|><|start|>assistant<|channel|>commentary<|message|>", False, False),
        ("<|end|><|start|>assistant<|channel|>final<|message|>", False, False),
        ("The sum of all analysis", False, False),
        ("<|return|>", False, False),
    ]:
        for token in ids(part):
            region.enter(token)
        assert (region.thinking, region.calling) == (thinking, calling), part


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
