"""Chat messages or a raw prompt -> token ids, and which of them an edit may touch.

Only what people wrote is steerable. The template around it and special tokens are not: steering
them breaks models that rest their attention on the first token, and says nothing about the text.

A content that spells a special token is text and nothing else: it cannot end its own turn and
begin one of another role.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from jinja2 import TemplateError

from ..errors import BadRequest


@dataclass(frozen=True, slots=True)
class Prompt:
    ids: tuple[int, ...]
    steerable: tuple[bool, ...]


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> Prompt:
    """By the tokenizer's chat template, ending where the assistant's reply begins.

    Raises BadRequest if there is no template or it refuses these messages.
    """
    if not tokenizer.chat_template:
        raise BadRequest(
            "This model has no chat template: send a raw prompt to /v1/completions.",
            param="messages",
        )
    whole = _templated(tokenizer, messages)
    spans = _contents(tokenizer, messages, whole)
    return _encode(tokenizer, whole, spans, cuts=_forged(tokenizer, whole, spans))


def encode_raw(tokenizer: Any, text: str) -> Prompt:
    """A prompt as it is, with the special tokens the tokenizer adds to every text."""
    return _encode(tokenizer, text, [(0, len(text))], add_special_tokens=True)


def _templated(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        )
    except TemplateError as error:
        raise BadRequest(
            f"The model's chat template refuses these messages: {error}.", param="messages"
        ) from error


def _contents(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], whole: str
) -> list[tuple[int, int]]:
    """Where the messages' contents lie in the rendered text.

    The template is rendered again with a marker for each content; putting the contents back must
    give the same text. If the template looks into the contents, they are searched for in order.
    """
    contents = [message["content"] for message in messages]
    markers = [f"\ue000{i}\ue001" for i in range(len(contents))]
    marked = [
        {**message, "content": marker} for message, marker in zip(messages, markers, strict=True)
    ]
    pattern = _templated(tokenizer, marked)
    for put in (contents, [content.strip() for content in contents]):
        spans, text, rest = [], "", pattern
        for marker, content in zip(markers, put, strict=True):
            before, found, rest = rest.partition(marker)
            start = len(text) + len(before)
            text += before + (content if found else "")
            spans.append((start, len(text)))
        if text + rest == whole:
            return spans
    return _searched(contents, whole)


def _searched(contents: Sequence[str], whole: str) -> list[tuple[int, int]]:
    spans, position = [], 0
    for content in map(str.strip, contents):
        start = whole.find(content, position)
        if start >= 0:
            position = start + len(content)
            spans.append((start, position))
    return spans


def _forged(tokenizer: Any, text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Where to cut the text so that no special token spelled inside a span is whole in a piece."""
    names = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    cuts = set()
    for start, stop in spans:
        for name in {*names, *tokenizer.all_special_tokens}:
            at = text.find(name, start, stop)
            while at >= 0:
                cuts.add(at + 1)
                at = text.find(name, at + 1, stop)
    return sorted(cuts)


def _encode(
    tokenizer: Any,
    text: str,
    spans: Sequence[tuple[int, int]],
    *,
    cuts: Sequence[int] = (),
    add_special_tokens: bool = False,
) -> Prompt:
    """Encoded piece by piece, where there are cuts: no token reaches over one."""
    never = frozenset(tokenizer.all_special_ids)
    ids: list[int] = []
    steerable: list[bool] = []
    for begin, end in pairwise((0, *cuts, len(text))):
        piece = tokenizer(
            text[begin:end], add_special_tokens=add_special_tokens, return_offsets_mapping=True
        )
        for token, (start, stop) in zip(piece["input_ids"], piece["offset_mapping"], strict=True):
            written = start < stop and any(begin + start < b and begin + stop > a for a, b in spans)
            ids.append(token)
            steerable.append(token not in never and written)
    return Prompt(tuple(ids), tuple(steerable))
