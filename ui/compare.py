"""Several replies at once: their streams as one, in frames a browser can keep up with."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .errors import ApiError

log = logging.getLogger("steerdeck.ui")

K = TypeVar("K")
FRAME = 1 / 15  # seconds: a browser falls behind a faster stream and never catches up


@dataclass(frozen=True, slots=True)
class Event(Generic[K]):
    """A chunk of the stream `name`, or its end: in `error`, or well when both are None."""

    name: K
    chunk: Mapping[str, Any] | None = None
    error: ApiError | None = None

    @property
    def last(self) -> bool:
        return self.chunk is None


class Merged(Generic[K]):
    """Streams read side by side, one task each, so that the engine runs them in one batch."""

    def __init__(self, streams: Mapping[K, AsyncIterator[Mapping[str, Any]]]) -> None:
        self._streams = streams
        self._queue: asyncio.Queue[Event[K]] = asyncio.Queue()
        self._open = set(streams)

    async def frames(self) -> AsyncIterator[list[Event[K]]]:
        """What arrived, about every FRAME seconds. The first event is not held back.

        Closing the iterator closes every stream, which stops their replies.
        """
        tasks = [asyncio.create_task(self._read(*item)) for item in self._streams.items()]
        try:
            while self._open:
                batch = [await self._queue.get()]
                while not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                batch = [event for event in batch if event.name in self._open]
                self._open -= {event.name for event in batch if event.last}
                shown = time.monotonic()
                yield batch
                if self._open:
                    await asyncio.sleep(max(0.0, FRAME - (time.monotonic() - shown)))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def abandon(self) -> None:
        """End every stream that is still open as if it had ended well."""
        for name in tuple(self._open):
            self._queue.put_nowait(Event(name))

    async def _read(self, name: K, stream: AsyncIterator[Mapping[str, Any]]) -> None:
        error = None
        try:
            async for chunk in stream:
                self._queue.put_nowait(Event(name, chunk))
        except ApiError as failure:
            error = failure
        except Exception:  # whatever else: the reader must hear of the end, or it waits for ever
            log.exception("reading a reply failed")
            error = ApiError("The page could not read the reply; the log of the page says why.")
        self._queue.put_nowait(Event(name, error=error))
