"""A conversation that outgrew the model's context, made to fit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from .errors import ApiError
from .session import Measured, Running, Session

MOST = 1000  # messages of one request, the service's own limit

Messages = Sequence[Mapping[str, str]]


async def fitting(
    stream: Callable[[dict[str, Any]], AsyncIterator[dict[str, Any]]],
    body: dict[str, Any],
    replies: Sequence[Running],
    session: Session,
) -> AsyncIterator[dict[str, Any]]:
    """The stream of `body`, without its oldest turns if the model's context cannot hold them, or
    would leave the reply less room than it asks for.

    What has been left out once is not tried again: the conversation only grows.
    """
    transcript = session.transcript
    messages, dropped = opening(body["messages"], transcript.dropped)
    crowding = _crowding(messages, body.get("max_completion_tokens") or 0, session)
    messages, dropped = without_oldest(messages, crowding), dropped + crowding
    step = 1
    while True:
        for one in replies:
            one.dropped = dropped
        said = 0
        try:
            async for chunk in stream({**body, "messages": messages}):
                # Only now: where a single question is too long, leaving out turns was in vain.
                transcript.dropped = max(transcript.dropped, dropped)
                said += _said(chunk)
                session.measured = _measured(chunk, messages, said) or session.measured
                yield chunk
            return
        except ApiError as error:
            left = _before(messages)
            if error.code != "context_length_exceeded" or not left:
                raise
        # Ever more at once, for few requests even where hundreds of turns must go; but never more
        # than half of what is left, so that much of what fits stays.
        fewer = min(step, (left + 1) // 2)
        messages, dropped, step = without_oldest(messages, fewer), dropped + fewer, 2 * step


def opening(messages: Messages, dropped: int) -> tuple[Messages, int]:
    """What to ask of a conversation whose `dropped` oldest turns do not fit, and how many it omits.

    The question itself always stays.
    """
    excess = (len(messages) - MOST + 1) // 2  # in turns, a question and its reply
    turns = min(max(dropped, excess), _before(messages))
    return without_oldest(messages, turns), turns


def without_oldest(messages: Messages, turns: int) -> Messages:
    """The messages without that many of the turns before the question. The system's stays."""
    asked = [i for i, message in enumerate(messages) if message["role"] == "user"]
    return [*messages[: asked[0]], *messages[asked[turns] :]]


def _crowding(messages: Messages, longest: int, session: Session) -> int:
    """How many turns to leave out so that a reply of `longest` tokens has room: the service would
    make it shorter, without a word. By an estimate; a reply that asks for more than half of the
    context is kept half of it, and the conversation its memory.
    """
    last = session.measured
    if not (session.context and last and longest):
        return 0
    room = session.context - min(longest, session.context // 2) - last.tokens
    sizes = [_size(message) for message in messages]
    asked = [i for i, message in enumerate(messages) if message["role"] == "user"]
    excess = sum(sizes) - last.size - room / last.rate
    before = range(len(asked) - 1)
    return next((t for t in before if sum(sizes[asked[0] : asked[t]]) >= excess), len(before))


def _measured(chunk: Mapping[str, Any], messages: Messages, said: int) -> Measured | None:
    """What the chunk with the usage tells, after `said` bytes of replies; None of any other."""
    usage = chunk.get("usage") or {}
    prompt, made = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not (isinstance(prompt, int) and isinstance(made, int) and made and said):
        return None
    # No text has more tokens than bytes; but what is not shown is counted as well.
    return Measured(sum(map(_size, messages)), prompt, min(1.0, made / said))


def _said(chunk: Mapping[str, Any]) -> int:
    choices = chunk.get("choices") or [{}]
    return _size(choices[0].get("delta") or {})


def _size(message: Mapping[str, str]) -> int:
    return len((message.get("content") or "").encode(errors="replace"))


def _before(messages: Messages) -> int:
    """How many turns there are before the question."""
    return sum(message["role"] == "user" for message in messages) - 1
