"""Thinking and tool calls are told by their marks, and nothing else opens or closes them."""

from __future__ import annotations

import copy
from dataclasses import replace

import conditions_by_hand
import pytest
from conditions_by_hand import OPEN, START, TEXT, ByHand, edit

from server.engine.conditions import Thinking
from server.engine.regions import Marks, Region
from server.engine.text import render
from server.engine.types import Steering

three = conditions_by_hand.three  # fixture


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
