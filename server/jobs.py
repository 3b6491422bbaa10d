"""One HTTP request's replies on their way: admission, the merged events, and their release."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from .deck import Deck
from .engine.seam import Generation
from .engine.types import Change, Delta, Event, Failure, Finish, FinishReason
from .engine.vectors import Vector
from .errors import GenerationFailed, UnknownGeneration
from .metrics import Clock, Metrics
from .prepare import Ask
from .schemas.steering import SteeringChange
from .steering import Resolved, resolve_change
from .timeline import Timeline, guard_steps
from .vectors import vectors_of

_LEFT: set[asyncio.Task[None]] = set()  # the loop itself keeps no task from being collected


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
    vectors: dict[str, Vector] = field(init=False)  # that its edits have named, live changes' too
    _clock: Clock = field(init=False)
    _running: set[int] = field(init=False)  # rows whose end was not heard

    def __post_init__(self) -> None:
        self.timelines = tuple(
            Timeline((Change(0, request.steering), *request.changes), guard_steps(request))
            for request in self.ask.requests
        )
        resolved = self.ask.resolved
        self.vectors = vectors_of([resolved.steering, *(c.steering for c in resolved.changes)])
        self._clock = Clock(self.metrics, self.started)
        self._running = set(range(len(self.generations)))

    @classmethod
    def admit(cls, deck: Deck, ask: Ask, metrics: Metrics) -> Job:
        """Queue every row of the request or, when one is refused, none."""
        started = time.monotonic()
        admitted = tuple(deck.engine.submit_all(ask.requests))
        for request in ask.requests:
            metrics.admitted(request)
        return cls(ask, deck, metrics, admitted, started)

    def steer(self, asked: SteeringChange) -> tuple[list[int], Resolved]:
        """Change the rows that still run: the generated token from which each of them holds it.

        Off the loop, as rows of features that nobody used before are read from disk, and one change
        at a time, with `steering` held. Raises BadRequest or Unsteerable, and then nothing changes.
        """
        resolved = resolve_change(self.deck, asked, self.vectors)
        for timeline in self.timelines:
            timeline.check(resolved.steering)
        held: list[int] = []
        for generation, timeline in zip(self.generations, self.timelines, strict=True):
            try:
                at = self.deck.engine.steer(generation.id, resolved.steering)
            except UnknownGeneration:
                continue  # this row has ended; another may still run
            timeline.note(at, resolved.steering)
            held.append(at)
        self.vectors |= vectors_of([resolved.steering])
        return held, resolved

    def release(self) -> None:
        """Free what still runs, before the next step. Idempotent; the end of every request."""
        if not self.released:
            self.released = True
            for generation in self.generations:
                generation.cancel()

    def hung_up(self) -> None:
        self.metrics.cancelled.labels("hung_up").inc()

    def leave(self) -> None:
        """Release it once `events` is not read any more: what it says until then only counts."""
        self.release()
        if self._running:
            task = asyncio.create_task(self._hear_out())
            _LEFT.add(task)
            task.add_done_callback(_LEFT.discard)

    async def _hear_out(self) -> None:
        for index in tuple(self._running):
            async for _ in self._heard(index):
                pass

    async def events(self) -> AsyncGenerator[tuple[int, Delta | Finish]]:
        """(index of the row, what it says); every row's last is its Finish.

        Raises GenerationFailed when a row's step failed or the engine fell silent.
        """
        rows = [self._heard(index) for index in range(len(self.generations))]
        async with aclosing(merged(rows)) as said:
            async for index, event in said:
                if isinstance(event, Failure):
                    raise GenerationFailed(self._whose(index) + event.message)
                yield index, event
        if self._running:
            self.metrics.failed.inc()
            raise GenerationFailed("the reply ended without a finish: the engine went away")

    async def _heard(self, index: int) -> AsyncIterator[Event]:
        """What a row says, counted before anybody may leave without having read it."""
        async for event in self.generations[index]:
            match event:
                case Delta():
                    self._clock.delta(index, len(event.tokens))
                    self.timelines[index].hear(event)
                case Finish():
                    self.timelines[index].hear(event)
                    self.metrics.finished(event)
                    if event.reason is FinishReason.CANCELLED and not self.released:
                        self.metrics.cancelled.labels("asked").inc()
                case Failure():
                    self.metrics.failed.inc()
            if not isinstance(event, Delta):
                self._running.discard(index)
            yield event

    def _whose(self, row: int) -> str:
        """Begins the message about one of several."""
        if self.ask.variants:
            return f"variant {row} ({self.ask.variants[row]}): "
        return f"choice {row}: " if len(self.generations) > 1 else ""


async def merged(rows: Sequence[AsyncIterable[Event]]) -> AsyncGenerator[tuple[int, Event]]:
    """The events of all rows as they come, each with its row's index."""
    if len(rows) == 1:
        async for event in rows[0]:
            yield 0, event
        return
    queue: asyncio.Queue[tuple[int, Event] | None] = asyncio.Queue()

    async def pump(index: int, row: AsyncIterable[Event]) -> None:
        try:
            async for event in row:
                queue.put_nowait((index, event))
        finally:
            queue.put_nowait(None)

    pumps = [asyncio.create_task(pump(i, row)) for i, row in enumerate(rows)]
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
