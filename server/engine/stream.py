"""Events on their way from the engine's thread to the event loops that read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from .types import Delta, Event


class Stream:
    """One reply as its reader sees it (`seam.Generation`)."""

    def __init__(self, id: str, cancel: Callable[[], None]) -> None:
        self.id = id
        self.loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._ended = False
        self._cancel = cancel

    def put(self, event: Event) -> None:
        """From the loop's own thread."""
        self._events.put_nowait(event)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        if self._ended:
            raise StopAsyncIteration
        event = await self._events.get()
        self._ended = not isinstance(event, Delta)
        return event

    def cancel(self) -> None:
        self._cancel()


Post = tuple[Stream, Event]


def deliver(posts: Iterable[Post]) -> None:
    """Hand over all events of a step: one wake-up for each loop. From any thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Post]] = {}
    for post in posts:
        by_loop.setdefault(post[0].loop, []).append(post)
    for loop, own in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put_all, own)
        except RuntimeError:  # the loop is closed, and with it everyone who could read
            for stream, _ in own:
                stream.cancel()


def _put_all(posts: list[Post]) -> None:
    for stream, event in posts:
        stream.put(event)
