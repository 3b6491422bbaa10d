"""Chat messages or a raw prompt -> token ids, and which of them an edit may touch.

Only what people wrote is steerable. The template around it and special tokens are not: steering
them breaks models that rest their attention on the first token, and says nothing about the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    return _encode(tokenizer, whole, _contents(tokenizer, messages, whole), special=False)


def encode_raw(tokenizer: Any, text: str) -> Prompt:
    """A prompt as it is, with the special tokens the tokenizer adds to every text."""
    return _encode(tokenizer, text, [(0, len(text))], special=True)


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


def _encode(
    tokenizer: Any, text: str, spans: Sequence[tuple[int, int]], *, special: bool
) -> Prompt:
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    never = frozenset(tokenizer.all_special_ids)
    steerable = [
        token not in never and any(start < stop and a < stop and b > start for a, b in spans)
        for token, (start, stop) in zip(ids, encoded["offset_mapping"], strict=True)
    ]
    return Prompt(tuple(ids), tuple(steerable))
