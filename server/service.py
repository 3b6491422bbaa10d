"""What the routes need: readiness, the deck once it is loaded, and the jobs that run on it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from .deck import Deck
from .engine.seam import Stats
from .errors import BadRequest, Busy, NotReady, SteerdeckError, Unavailable, UnknownGeneration
from .jobs import Job
from .metrics import Metrics
from .prepare import Ask
from .schemas.listings import Ready
from .schemas.steering import SteeringChange
from .steering import Resolved

log = logging.getLogger("steerdeck.service")


@dataclass(frozen=True)
class Readiness:
    """How far loading has come. progress: 0 to 1."""

    stage: str
    progress: float = 0.0
    failure: str | None = None


Report = Callable[[str, float], None]
Loader = Callable[[Report], Deck]


class Service:
    """Loads in the background, then serves. Everything but `load` belongs to the event loop."""

    def __init__(self, name: str, loader: Loader) -> None:
        self.name = name
        self.metrics = Metrics()
        self.readiness = Readiness("starting")
        self.jobs: dict[str, Job] = {}
        self._loader = loader
        self._loading = threading.Thread(target=self._run, name="steerdeck-load", daemon=True)
        self._loaded: Future[Deck] = Future()
        self._deck: Deck | None = None
        self._closing = False
        # Tokenizers, rows read from disk: slow enough to stall the streams, so never on the loop;
        # one thread, because a fast tokenizer may not be used by two at once.
        self._aside = ThreadPoolExecutor(1, "steerdeck-prepare")
        self._preparing = 0  # requests that the thread has, or will have

    async def load(self) -> None:
        """Run the loader in a thread. A failure is kept and told by /readyz, and not raised.

        None of that when the service closes meanwhile: the next thing the loader reports ends it,
        and whoever cannot wait for that may end the process, which does not wait for this thread.
        """
        begun = time.monotonic()
        self._loading.start()
        try:
            deck = await asyncio.wrap_future(self._loaded)
        except Exception as exc:
            if self._closing:
                return
            expected = isinstance(exc, SteerdeckError | ValueError | OSError)
            log.error("%s cannot be served: %s", self.name, exc, exc_info=not expected)
            self.readiness = Readiness("failed", self.readiness.progress, str(exc))
            return
        if self._closing:
            await asyncio.to_thread(deck.engine.close)
            return
        self._deck = deck
        self.readiness = Readiness("ready", 1.0)
        log.info("%s is ready, %.1f s after it began to load", deck.model, time.monotonic() - begun)

    @property
    def loading(self) -> bool:
        """Whether the loader is at work, if only because it did not hear yet of the close."""
        return self._loading.is_alive()

    def _run(self) -> None:
        self._loaded.set_running_or_notify_cancel()  # a loop that ends cannot cancel it any more
        try:
            self._loaded.set_result(self._loader(self._report))
        except BaseException as exc:
            self._loaded.set_exception(exc)

    def _report(self, stage: str, progress: float) -> None:
        """In the loader's thread, at every piece of a download: a stage is logged once."""
        if self._closing:
            raise self._shut()
        before, self.readiness = self.readiness, Readiness(stage, progress)
        if stage != before.stage:
            log.info("%s (%d %%)", stage, round(100 * progress))

    @staticmethod
    def _shut() -> Unavailable:
        return Unavailable("the server is shutting down")

    @property
    def deck(self) -> Deck:
        """Raises NotReady until everything is loaded."""
        if self._closing:
            raise self._shut()
        if self._deck is not None:
            return self._deck
        now = self.readiness
        if now.failure is not None:
            raise Unavailable(f"{self.name} could not be loaded: {now.failure}")
        raise NotReady(
            f"{self.name} is not loaded yet ({now.stage}, {now.progress:.0%}): "
            f"try again in {NotReady.retry_after} seconds, or ask /readyz"
        )

    @property
    def alive(self) -> bool:
        """Whether a request would be served now."""
        return not self._closing and self._deck is not None and self._deck.engine.stats().alive

    async def prepare(self, make: Callable[[Deck], Ask]) -> Ask:
        """Run `make` and the engine's own check of its rows in the thread for such work.

        Raises Busy where more wait for it than the engine has places.
        """
        deck = self.deck
        limits = deck.engine.capabilities
        if self._preparing >= limits.max_rows + limits.max_waiting:
            raise Busy(
                f"{self._preparing} requests are being prepared, which is as many as may run and "
                "wait: try again in a moment"
            )

        def prepared() -> Ask:
            ask = make(deck)
            for request in ask.requests:
                deck.engine.check(request)
            return ask

        self._preparing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._aside, prepared)
        finally:
            self._preparing -= 1

    def admit(self, ask: Ask) -> Job:
        """Queue a request's rows. Raises what the engine does: BadRequest for a name that is taken
        among others.
        """
        job = Job.admit(self.deck, ask, self.metrics)
        self.jobs[ask.id] = job
        return job

    def release(self, job: Job) -> None:
        """The end of a request, however it came."""
        job.release()
        if self.jobs.get(job.ask.id) is job:
            del self.jobs[job.ask.id]

    async def steer(self, name: str, asked: SteeringChange) -> tuple[int, Resolved]:
        """Change a running reply; returns the generated token from which it holds.

        With n > 1 all rows are changed, and the token is the first running row's. Raises BadRequest
        for a comparison.
        """
        job = self._job(name)
        if job.ask.variants:
            raise BadRequest(
                f"{name!r} compares ways of steering, so it cannot be steered as one: stop it, and "
                "ask for other variants",
                param="id",
            )
        async with job.steering:
            held, resolved = await asyncio.to_thread(job.steer, asked)
        if not held:
            raise self._unknown(name)
        for edit in resolved.steering.edits:
            self.metrics.edits.labels(str(edit.op)).inc()
        return held[0], resolved

    def stop(self, name: str) -> None:
        """End a running reply; its stream finishes with what it has."""
        dropped = 0
        for generation in self._job(name).generations:
            try:
                self.deck.engine.drop(generation.id)
                dropped += 1
            except UnknownGeneration:
                continue
        if not dropped:
            raise self._unknown(name)

    def _job(self, name: str) -> Job:
        if self._closing:
            raise self._shut()
        if name not in self.jobs:
            raise self._unknown(name)
        return self.jobs[name]

    def _unknown(self, name: str) -> UnknownGeneration:
        return UnknownGeneration(
            f"no generation called {name!r} is running: it has ended, or never was", param="id"
        )

    async def close(self) -> None:
        """Refuse newcomers, end every stream in an error, join the engine thread."""
        self._closing = True
        self._aside.shutdown(wait=False)
        if self._deck is not None:
            await asyncio.to_thread(self._deck.engine.close)
            for cards in self._deck.cards.values():
                await asyncio.to_thread(cards.close)  # waits for who still reads

    def stats(self) -> Stats | None:
        """The engine's, None while there is none."""
        return self._deck.engine.stats() if self._deck is not None else None

    def summary(self) -> Ready:
        """For /readyz."""
        now = self.readiness
        if self.alive:
            return {"ready": True}
        told: Ready = {"ready": False, "stage": now.stage, "progress": round(now.progress, 3)}
        if self._closing:
            told["stage"] = "closing"
        elif self._deck is not None:
            told["stage"] = "dead"
            told["message"] = "the engine thread ended: restart the server"
        elif now.failure is not None:
            told["message"] = now.failure
        return told
