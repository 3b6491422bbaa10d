"""Templates as published models have them: what people said is found wherever it was put."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from test_engine_text import steerable_text, with_template
from tokenizers import processors

from dictionaries.contents import contents
from server.engine.text import encode_raw, render
from server.errors import BadRequest

MISTRAL_3 = (
    "{% set system = messages[0]['content'] %}<|begin|>{% for m in messages[1:] %}"
    "{% if m['role'] == 'user' %}[INST] {% if loop.last %}{{ system + '\n\n' }}{% endif %}"
    "{{ m['content'] }}[/INST]{% else %} {{ m['content'] | trim }}<|end|>{% endif %}{% endfor %}"
)
GEMMA_3 = (
    "<|begin|>{% for m in messages[1:] %}<|role|>{{ m['role'] }}\n"
    "{% if loop.first %}{{ messages[0]['content'] + '\n\n' }}{% endif %}"
    "{{ m['content'] | trim }}<|end|>\n{% endfor %}<|role|>assistant\n"
)
QWEN_3 = (
    "{% for m in messages %}{% set said = m['content'] %}{% if m['role'] == 'assistant' %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|role|>{{ m['role'] + '\n' + said }}<|end|>\n{% endfor %}<|role|>assistant\n"
)
REMINDED = (
    "{% for m in messages %}<|role|>{{ m['role'] + '\n' + m['content'] }}<|end|>\n{% endfor %}"
    "<|role|>reminder\n{{ messages[0]['content'] | trim }}<|end|>\n<|role|>assistant\n"
)
TALK = [
    {"role": "system", "content": "Be kind.\n"},
    {"role": "user", "content": "role or INST? "},
    {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nI know. "},
    {"role": "user", "content": "no"},
]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (MISTRAL_3, ["role or INST? ", "<think>\nHm.\n</think>\n\nI know.", "Be kind.\n", "no"]),
        (GEMMA_3, ["Be kind.\n", "role or INST?", "<think>\nHm.\n</think>\n\nI know.", "no"]),
        (QWEN_3, ["Be kind.\n", "role or INST? ", "I know. ", "no"]),
        (REMINDED, [*(message["content"] for message in TALK), "Be kind."]),
    ],
)
def test_contents_that_are_moved_stripped_repeated_or_rid_of_thoughts_are_found(
    tokenizer, template, said
) -> None:
    prompt = render(with_template(tokenizer, template), TALK)
    assert steerable_text(tokenizer, prompt) == "".join(said)


def test_what_a_template_moves_is_told_in_the_order_of_the_messages(tokenizer) -> None:
    moving = with_template(tokenizer, MISTRAL_3)
    whole, spans = contents(lambda m: moving.apply_chat_template(list(m), tokenize=False), TALK)
    found = [whole[s.start : s.stop].strip() for (s,) in spans]
    assert found == [m["content"].strip() for m in TALK]


def test_a_system_message_that_the_template_passes_over_is_put_before_the_users(tokenizer) -> None:
    phi = with_template(
        tokenizer,
        "{% for m in messages %}{% if m['role'] in ('user', 'assistant') %}"
        "<|role|>{{ m['role'] + '\n' + m['content'] }}<|end|>{% endif %}{% endfor %}",
    )
    folded = [{"role": "user", "content": "Be kind.\n\n\nrole or INST? "}, *TALK[2:]]
    assert render(phi, TALK) == render(phi, folded)
    for late in ([*TALK, TALK[0], TALK[1]], [*TALK[1:], TALK[0], TALK[1]]):
        with pytest.raises(BadRequest, match="passes this system message over"):
            render(phi, late)


def test_an_empty_content_makes_nothing_of_the_template_steerable(tokenizer) -> None:
    straddled = copy.deepcopy(tokenizer)
    straddled.add_tokens(["ab"])
    template = "<|begin|>{% for m in messages %}a{{ m['content'] }}b{% endfor %}"
    joined = with_template(straddled, template)
    prompt = render(joined, [{"role": "user", "content": ""}])
    assert not any(prompt.steerable)


def test_blanks_are_said_too_where_the_tokenizer_trims_its_offsets(tokenizer) -> None:
    trimming = with_template(copy.deepcopy(tokenizer), None)
    trimming.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    flags: Any = encode_raw(trimming, "a   b").steerable
    assert flags == (False, *[True] * (len(flags) - 1))
