"""Where the contents of messages lie in a rendered chat.

Edits and statistics touch what people wrote and leave the chat template around it alone, so the
engine and the workshop both have to tell the two apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Render = Callable[[Sequence[Mapping[Any, str]]], str]


def contents(
    render: Render, messages: Sequence[Mapping[Any, str]]
) -> tuple[str, list[list[range]]]:
    """The rendered text, and the characters of it that each message's `content` became, in each
    place where it stands.

    The template is rendered again with a marker for each content, in whatever order it puts them:
    between the same text around stands what they became, stripped ones and those a thought was cut
    from included; of one it leaves out, nothing. Where that text differs, as a template looks into
    the contents, they are searched for in order, and those not found are left out.
    """
    whole = render(messages)
    said = [message["content"] for message in messages]
    marks = [f"\ue000{i}\ue001" for i in range(len(said))]
    marked = [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
    spans = _placed(said, render(marked), whole)
    return whole, _searched(said, whole) if spans is None else spans


def _placed(said: Sequence[str], pattern: str, whole: str) -> list[list[range]] | None:
    """The characters of each, in a text that is `pattern` but for them; None if it is not."""
    before, *rest = re.split("\ue000(\\d+)\ue001", pattern)
    if not whole.startswith(before):
        return None
    spans: list[list[range]] = [[] for _ in said]
    at = len(before)
    for i, after in zip(map(int, rest[::2]), rest[1::2], strict=True):
        end = _end(said[i], after, whole, at)
        if end is None:
            return None
        spans[i].append(range(at, end))
        at = end + len(after)
    return spans if at == len(whole) else None


def _end(said: str, after: str, whole: str, at: int) -> int | None:
    """Where what begins at `at` and came of `said` ends and `after` begins."""
    for own in (said, said.strip()):
        if whole.startswith(own + after, at):
            return at + len(own)
    end = whole.find(after, at) if after else len(whole)
    return end if end >= 0 and whole[at:end] in said else None


def _searched(said: Sequence[str], whole: str) -> list[list[range]]:
    spans, position = [], 0
    for content in map(str.strip, said):
        start = whole.find(content, position)
        if start >= 0:
            position = start + len(content)
            spans.append([range(start, position)])
    return spans
