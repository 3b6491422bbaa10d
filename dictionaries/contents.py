"""Where the contents of messages lie in a rendered chat.

Edits and statistics touch what people wrote and leave the chat template around it alone, so the
engine and the workshop both have to tell the two apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Render = Callable[[Sequence[Mapping[Any, str]]], str]


def contents(render: Render, messages: Sequence[Mapping[Any, str]]) -> tuple[str, list[range]]:
    """The rendered text, and the characters of it that each message's `content` became.

    The template is rendered again with a marker for each content; putting the contents back must
    give the same text, stripped ones included. A template that changes them otherwise has them
    searched for in order, and those not found are left out.
    """
    whole = render(messages)
    said = [message["content"] for message in messages]
    marks = [f"\ue000{i}\ue001" for i in range(len(said))]
    marked = [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
    pattern = render(marked)
    for put in (said, [text.strip() for text in said]):
        spans, text, rest = [], "", pattern
        for mark, content in zip(marks, put, strict=True):
            before, found, rest = rest.partition(mark)
            start = len(text) + len(before)
            text += before + (content if found else "")
            spans.append(range(start, len(text)))
        if text + rest == whole:
            return whole, spans
    return whole, _searched(said, whole)


def _searched(said: Sequence[str], whole: str) -> list[range]:
    spans, position = [], 0
    for content in map(str.strip, said):
        start = whole.find(content, position)
        if start >= 0:
            position = start + len(content)
            spans.append(range(start, position))
    return spans
