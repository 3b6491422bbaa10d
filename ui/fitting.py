"""A conversation that outgrew the model's context, made to fit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from .errors import ApiError
from .session import Running
from .transcript import Transcript

MOST = 1000  # messages of one request, the service's own limit

Messages = Sequence[Mapping[str, str]]


async def fitting(
    stream: Callable[[dict[str, Any]], AsyncIterator[dict[str, Any]]],
    body: dict[str, Any],
    replies: Sequence[Running],
    transcript: Transcript,
) -> AsyncIterator[dict[str, Any]]:
    """The stream of `body`, without its oldest turns if the model's context cannot hold them.

    What has been left out once is not tried again: the conversation only grows.
    """
    messages, dropped = opening(body["messages"], transcript.dropped)
    while True:
        for one in replies:
            one.dropped = dropped
        try:
            async for chunk in stream({**body, "messages": messages}):
                # Only now: where a single question is too long, leaving out turns was in vain.
                transcript.dropped = max(transcript.dropped, dropped)
                yield chunk
            return
        except ApiError as error:
            shorter = without_oldest(messages)
            if error.code != "context_length_exceeded" or not shorter:
                raise
        messages, dropped = shorter, dropped + 1


def opening(messages: Messages, dropped: int) -> tuple[Messages, int]:
    """What to ask of a conversation whose `dropped` oldest turns do not fit, and how many it omits.

    The question itself always stays.
    """
    excess = (len(messages) - MOST + 1) // 2  # in turns, a question and its reply
    asked = sum(message["role"] == "user" for message in messages)
    turns = min(max(dropped, excess), asked - 1)
    return without_oldest(messages, turns), turns


def without_oldest(messages: Messages, turns: int = 1) -> Messages:
    """The messages without their first turns; empty when there are no more. The system's stays."""
    asked = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if len(asked) <= turns:
        return []
    return [*messages[: asked[0]], *messages[asked[turns] :]]
