"""A conversation that outgrew the model's context, made to fit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from .errors import ApiError
from .session import Running


async def fitting(
    stream: Callable[[dict[str, Any]], AsyncIterator[dict[str, Any]]],
    body: dict[str, Any],
    replies: Sequence[Running],
) -> AsyncIterator[dict[str, Any]]:
    """The stream of `body`, without its oldest turns if the model's context cannot hold them."""
    while True:
        try:
            async for chunk in stream(body):
                yield chunk
            return
        except ApiError as error:
            shorter = without_oldest(body["messages"])
            if error.code != "context_length_exceeded" or not shorter:
                raise
        body = {**body, "messages": shorter}
        for one in replies:
            one.dropped += 1


def without_oldest(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The messages without their first turn; empty when there is but one. The system's stays."""
    asked = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if len(asked) < 2:
        return []
    return [*messages[: asked[0]], *messages[asked[1] :]]
