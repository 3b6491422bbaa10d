"""One HTTP request's replies on their way: admission, the merged events, and their release."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from .deck import Deck
from .engine.seam import Generation
from .engine.types import Delta, Event, Failure, Finish, FinishReason, Request
from .errors import GenerationFailed
from .metrics import Metrics
from .prepare import Ask
from .timeline import Timeline


@dataclass
class Job:
    """The rows of one request. `events` may be read once; `release` may be called always."""

    ask: Ask
    deck: Deck
    metrics: Metrics
    generations: tuple[Generation, ...]
    started: float = field(default_factory=time.monotonic)
    released: bool = False
    steering: asyncio.Lock = field(default_factory=asyncio.Lock)  # live changes, in their order
    timelines: tuple[Timeline, ...] = field(init=False)  # one for each generation

    def __post_init__(self) -> None:
        self.timelines = tuple(Timeline(request.changes) for request in self.ask.requests)

    @classmethod
    def admit(cls, deck: Deck, ask: Ask, metrics: Metrics) -> Job:
        """Queue every row of the request or, when one is refused, none."""
        started = time.monotonic()
        admitted = tuple(deck.engine.submit_all(ask.requests))
        for request in ask.requests:
            metrics.admitted(request)
        return cls(ask, deck, metrics, admitted, started)

    def release(self) -> None:
        """Free what still runs, before the next step. Idempotent; the end of every request."""
        if not self.released:
            self.released = True
            for generation in self.generations:
                generation.cancel()

    def hung_up(self, unread: int = 0) -> None:
        """Count it. unread: rows whose end nobody is left to hear."""
        self.metrics.cancelled.labels("hung_up").inc()
        self.metrics.replies.labels(str(FinishReason.CANCELLED)).inc(unread)

    async def events(self) -> AsyncIterator[tuple[int, Delta | Finish]]:
        """(index of the row, what it says); every row's last is its Finish.

        Raises GenerationFailed when a row's step failed or the engine fell silent.
        """
        clock = self.metrics.clock(self.started)
        running = set(range(len(self.generations)))
        async for index, event in merged(self.generations):
            match event:
                case Delta():
                    clock.delta(index, len(event.tokens))
                case Finish():
                    running.discard(index)
                    self.metrics.finished(event)
                    if event.reason is FinishReason.CANCELLED and not self.released:
                        self.metrics.cancelled.labels("asked").inc()
                case Failure():
                    self.metrics.failed.inc()
                    raise GenerationFailed(event.message)
            yield index, event
        if running:
            self.metrics.failed.inc()
            raise GenerationFailed("the reply ended without a finish: the engine went away")

    @property
    def requests(self) -> Sequence[Request]:
        return self.ask.requests


async def merged(generations: Sequence[Generation]) -> AsyncIterator[tuple[int, Event]]:
    """The events of all generations as they come, each with its generation's index."""
    if len(generations) == 1:
        async for event in generations[0]:
            yield 0, event
        return
    queue: asyncio.Queue[tuple[int, Event] | None] = asyncio.Queue()

    async def pump(index: int, generation: Generation) -> None:
        try:
            async for event in generation:
                queue.put_nowait((index, event))
        finally:
            queue.put_nowait(None)

    pumps = [asyncio.create_task(pump(i, g)) for i, g in enumerate(generations)]
    try:
        ended = 0
        while ended < len(pumps):
            item = await queue.get()
            if item is None:
                ended += 1
            else:
                yield item
        await asyncio.gather(*pumps)  # an exception in one of them comes out here
    finally:
        for task in pumps:
            task.cancel()
