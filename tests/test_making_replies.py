"""Replies put into the model's mouth: which tokens are theirs, and how fluent they are."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import byte_tokenizer
from tokenizers import pre_tokenizers

from dictionaries.making.baselines import under
from dictionaries.making.fluency import Nats, Scale, loops
from dictionaries.making.forced import Teacher, garbled
from dictionaries.making.handles import concept_tokens
from dictionaries.making.heard import Heard, fluency
from dictionaries.making.neutral import CALIBRATION, EVALUATION, PRESET_QUESTIONS, said
from dictionaries.making.subject import Prompt
from server.asking import Asking
from server.model_subject import ModelSubject


def test_loops_and_empty_replies_count_as_nothing_beyond_the_models_own() -> None:
    fine, loop, empty = (
        Heard("a", True, 0.0, Nats(10, 10)),
        Heard("b", True, 0.9, Nats(1, 10)),
        Heard("", False, 0.0, Nats(0, 0)),
    )
    assert fluency([fine, loop], Scale(1.0, 5.0, 1.0)) == 0.5
    assert fluency([fine, empty], Scale(1.0, 5.0, 1.0)) == 0.5
    assert fluency([fine, loop], Scale(1.0, 5.0, 0.5)) == 1.0
    assert fluency([loop, empty], Scale(1.0, 5.0, 1.0)) == 0.0


@given(st.lists(st.integers(0, 3), max_size=30))
def test_loops_are_between_nothing_and_one(ids: list[int]) -> None:
    assert 0 <= loops(ids) < 1
    assert loops(list(range(len(ids)))) == 0
    assert len(ids) < 3 or loops(ids * 5) > 0.5


def test_the_replys_tokens_are_the_replys_and_no_others(planted, subject) -> None:
    teacher, tokenizer = Teacher(subject), planted.tokenizer
    for prompt, reply in itertools.product(EVALUATION[:3], ("I am a bridge", "day", "")):
        row = teacher.spoken(said(prompt), reply)
        assert tokenizer.decode(row.ids) == reply
    after = teacher.spoken(
        (
            {"role": "user", "content": "day"},
            {"role": "assistant", "content": "day"},
            {"role": "user", "content": "day"},
        ),
        "day",
    )
    assert sum(after.reply) == 1
    assert after.reply.index(True) == max(i for i, c in enumerate(after.row.content) if c)


TURN = "<|role|>{{ m.content.split('</think>')[-1].strip() }}<|end|>"
TEMPLATES = {
    "a thought in every finished turn": "{% for m in messages %}{% if m.role == 'assistant' %}"
    "<think>no</think>{% endif %}" + TURN + "{% endfor %}{% if add_generation_prompt %}<|role|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think>no</think>{% endif %}"
    "{% endif %}",
    "thoughts taken away": "{% for m in messages %}" + TURN + "{% endfor %}"
    "{% if add_generation_prompt %}<|role|>\n{% endif %}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("reply", ["Fine.", "<think>no</think>", "<think>Hm\n</think>\n\nFine."])
def test_a_reply_is_measured_behind_the_tokens_that_the_speaker_is_asked_with(
    template: str, reply: str
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = template
    asking = Asking(tokenizer)
    bench = SimpleNamespace(tokenizer=tokenizer, prompt=lambda m: Prompt(*map(list, as_pair(m))))

    def as_pair(messages: Any) -> tuple[Any, Any]:
        prompt = asking(messages)
        return prompt.ids, prompt.steerable

    row = Teacher(bench).spoken(said("How are you?"), reply)  # type: ignore[arg-type]
    asked = asking(said("How are you?"))
    assert row.row.ids[: len(asked.ids)] == list(asked.ids)
    assert row.row.content[: len(asked.ids)] == list(asked.steerable)
    assert row.row.ids[len(asked.ids) :] == row.ids
    assert tokenizer.decode(row.ids) == reply


REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"


@pytest.mark.parametrize("refusing", ["", REFUSING], ids=["any role", "no system role"])
def test_a_reply_begins_as_the_template_has_it_begin(refusing, planted, subject) -> None:
    """In one tokenizer with a space, which "bridge" must have to be a word; in another without."""
    spaced, lined = copy.deepcopy(planted.tokenizer), copy.deepcopy(planted.tokenizer)
    lined.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    lined.chat_template = "{% for m in messages %}<|role|>{{ m.content }}{% endfor %}"
    begins = []
    for tokenizer in (spaced, lined):
        tokenizer.chat_template = refusing + tokenizer.chat_template
        bare = ModelSubject(planted.model, tokenizer, planted.dictionary.info.site)
        asked = under("Be a bridge.", "How are you?")
        begins.append(Teacher(bare).spoken(asked, "bridge day").row.ids[-2:])
    words = (["▁bridge", "▁day"], ["<|unk|>", "▁day"])
    assert begins == [planted.tokenizer.convert_tokens_to_ids(two) for two in words]


def test_without_a_chat_template_the_reply_goes_on_after_the_prompt(planted, subject) -> None:
    plain = copy.copy(planted.tokenizer)
    plain.chat_template = None
    bare = ModelSubject(planted.model, plain, planted.dictionary.info.site)
    row = Teacher(bare).spoken(said("How are you?"), "a bridge")
    assert plain.decode(row.ids) == "a bridge"
    assert plain.decode(row.row.ids).endswith("How are you? a bridge")


def test_nats_are_the_surprise_of_the_reply_alone(planted, subject) -> None:
    teacher = Teacher(subject)
    rows = [
        teacher.spoken(said(p), r)
        for p, r in ((EVALUATION[0], "I am a day"), (EVALUATION[2], "bridge"), (EVALUATION[1], ""))
    ]
    for row, nats in zip(rows, teacher.nats(rows), strict=True):
        log_p = planted.model(torch.tensor([row.row.ids])).logits[0].log_softmax(-1)
        own = [i for i, mine in enumerate(row.reply) if mine]
        expected = -sum(float(log_p[i - 1, row.row.ids[i]]) for i in own)
        assert nats.tokens == len(own)
        assert nats.total == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_garbling_moves_half_of_the_replys_tokens_and_nothing_else(planted, subject) -> None:
    row = Teacher(subject).spoken(said("How are you?"), "I am a day at my work. was new late")
    mixed = garbled(row, 3)
    assert sorted(mixed.ids) == sorted(row.ids)
    assert mixed.ids != row.ids
    assert sum(a != b for a, b in zip(mixed.ids, row.ids, strict=True)) <= len(row.ids) / 2
    outside = [i for i, own in enumerate(row.reply) if not own]
    assert [mixed.row.ids[i] for i in outside] == [row.row.ids[i] for i in outside]


def test_words_become_the_tokens_that_begin_them(planted) -> None:
    wanted = planted.tokenizer.convert_tokens_to_ids(["▁bridge", "▁How"])
    words = ["bridge", "how", "nowhere", "cable tower"]
    assert concept_tokens(planted.tokenizer, words) == tuple(sorted(wanted))


def test_the_three_sets_of_neutral_messages_share_none() -> None:
    sets = (CALIBRATION, EVALUATION, PRESET_QUESTIONS)
    assert sum(map(len, sets)) == len(set().union(*sets))
    assert len(EVALUATION) == 20
    assert len(PRESET_QUESTIONS) == 12
