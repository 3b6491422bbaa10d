"""Chat messages or a raw prompt -> token ids, and which of them an edit may touch.

Only what was said is steerable, and of that no tool call. The template around it and special tokens
are not: steering them breaks models that rest their attention on the first token, and says nothing
about the text. Where no special token leads, the first token of the text is that one and is not
steerable either: no dictionary reads its residual, many times as long as any other.

A content that spells a special token is text and nothing else: it cannot end its own turn and
begin one of another role.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, takewhile
from typing import Any

from jinja2 import TemplateError

from dictionaries.contents import Render, contents

from ..errors import BadRequest, TooLong
from .decoding import specials
from .regions import OWN_MARKS, calls


@dataclass(frozen=True, slots=True)
class Prompt:
    ids: tuple[int, ...]
    steerable: tuple[bool, ...]


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    *,
    most: int = sys.maxsize,
    thinking: bool | None = None,
) -> Prompt:
    """By the tokenizer's chat template, ending where the assistant's reply begins; without one, the
    contents in lines, of which the reply is the next part.

    A template that knows no system role, and refuses one (Gemma 2's) or passes it over (Phi-3's),
    gets the system's text at the head of the first user message.

    thinking: what the template is told of `enable_thinking`; None: nothing. Many know no such word.
    Raises BadRequest if the template refuses these messages or leaves a system's out, and TooLong
    where pieces are left to tokenize for which `most` tokens have no room.
    """
    plain = not tokenizer.chat_template
    templated = partial(_templated, tokenizer, thinking)
    try:
        whole, found = _heard(_in_lines if plain else templated, messages)
    except BadRequest:
        if not (folded := _folded(messages)):
            raise
        messages = folded
        whole, found = _heard(templated, messages)
    whose: Sequence[Mapping[str, str]] = [{}] * len(found)  # unknown where some were not found
    if len(found) == len(messages):
        whose = messages
    placed = [(one, span) for one, places in zip(whose, found, strict=True) for span in places]
    parts = [part for one in placed for part in _without_calls(tokenizer, whole, *one)]
    spans = sorted(filter(None, parts), key=lambda span: span.start)
    cuts = _forged(tokenizer, whole, spans)
    return _encode(tokenizer, whole, spans, cuts=cuts, add_special_tokens=plain, most=most)


def encode_raw(tokenizer: Any, text: str) -> Prompt:
    """A prompt as it is, with the special tokens the tokenizer adds to every text."""
    return _encode(tokenizer, text, [range(len(text))], add_special_tokens=True)


def _templated(tokenizer: Any, thinking: bool | None, messages: Sequence[Mapping[str, str]]) -> str:
    told = {} if thinking is None else {"enable_thinking": thinking}
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=True,
                **told,
            )
        )
    except TemplateError as error:
        raise BadRequest(
            f"The model's chat template refuses these messages: {error}. Send user and assistant "
            "in turn, a user first and last, and a system message only before them.",
            param="messages",
        ) from error


def _heard(render: Render, messages: Sequence[Mapping[str, str]]) -> tuple[str, list[list[range]]]:
    """`contents`; raises BadRequest where nothing is left of what a system message says."""
    whole, spans = contents(render, messages)
    if len(spans) == len(messages):
        for message, places in zip(messages, spans, strict=True):
            if message["role"] == "system" and message["content"].strip() and not any(places):
                raise BadRequest(
                    "The model's chat template passes this system message over. Send it before all "
                    "others and a user's next, or say it in a user's.",
                    param="messages",
                )
    return whole, spans


def _folded(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """What the system says first put before what the user does; empty where that cannot be done."""
    told = list(takewhile(lambda message: message["role"] == "system", messages))
    first, *rest = messages[len(told) :] or [{"role": ""}]
    if not told or first["role"] != "user":
        return []
    said = [message["content"] for message in (*told, first) if message["content"]]
    return [{**first, "content": "\n\n".join(said)}, *rest]


def _in_lines(messages: Sequence[Mapping[str, str]]) -> str:
    return "\n".join(message["content"] for message in messages)


def _without_calls(
    tokenizer: Any, text: str, message: Mapping[str, str], span: range
) -> Iterator[range]:
    """The span of a message, less the tool calls that the model made in it."""
    start = span.start
    if message.get("role") == "assistant":
        for call in calls(tokenizer, text[span.start : span.stop]):
            yield range(start, span.start + call.start)
            start = span.start + call.stop
    yield range(start, span.stop)


def _forged(tokenizer: Any, text: str, spans: Sequence[range]) -> list[int]:
    """Where to cut the text so that no token spelled inside a span that would be read as one of the
    template's marks is whole in a piece.
    """
    names = _marks(tokenizer, text, spans)
    cuts = set()
    for span in spans:
        for name in names:
            at = text.find(name, span.start, span.stop)
            while at >= 0:
                cuts.add(at + 1)
                at = text.find(name, at + 1, span.stop)
    return sorted(cuts)


def _marks(tokenizer: Any, text: str, spans: Sequence[range]) -> set[str]:
    """Names of special tokens, and of added ones that the template writes around the contents:
    DeepSeek's <｜User｜> is not special. Not blanks, nor what thoughts and calls begin with.
    """
    edges = [0, *(edge for span in spans for edge in (span.start, span.stop)), len(text)]
    around = "\n".join(text[edges[i] : edges[i + 1]] for i in range(0, len(edges), 2))
    added = {token.content for token in tokenizer.added_tokens_decoder.values()} - OWN_MARKS
    return {*specials(tokenizer).values(), *(n for n in added if n.strip() and n in around)}


def _encode(
    tokenizer: Any,
    text: str,
    spans: Sequence[range],
    *,
    cuts: Sequence[int] = (),
    add_special_tokens: bool = False,
    most: int = sys.maxsize,
) -> Prompt:
    """Encoded piece by piece, where there are cuts: no token reaches over one.

    spans: in order, and none is empty.
    """
    ids: list[int] = []
    said: list[bool] = []
    rest = deque(spans)
    for done, (begin, end) in enumerate(pairwise((0, *cuts, len(text)))):
        if len(ids) + len(cuts) + 1 - done > most:  # a piece to come is a token at least
            raise TooLong(
                f"the prompt is too long: it has more than {most} tokens, and this model's maximum "
                f"context length is {most + 1} tokens, of prompt and reply together: shorten it",
                param="messages",
            )
        piece = tokenizer(
            text[begin:end],
            add_special_tokens=add_special_tokens and begin == 0,
            return_offsets_mapping=True,
        )
        for token, (start, stop) in zip(piece["input_ids"], piece["offset_mapping"], strict=True):
            start = min(start, stop - 1)  # of a token of blanks some tokenizers tell the end only
            while rest and rest[0].stop <= begin + start:
                rest.popleft()
            said.append(bool(rest) and rest[0].start < begin + stop)
            ids.append(token)
    return flagged(tokenizer, ids, said)


def flagged(tokenizer: Any, ids: Sequence[int], said: Sequence[bool]) -> Prompt:
    """Of what was said all is steerable, but special tokens and the first."""
    never = specials(tokenizer)
    own = enumerate(zip(ids, said, strict=True))
    flags = (at > 0 and one and token not in never for at, (token, one) in own)
    return Prompt(tuple(ids), tuple(flags))
