"""What the engine's thread does in one step: plan, compute, settle.

`plan` and `settle` are called with the engine's lock held and touch no tensor; `compute` is called
without it and does all the work, including the housekeeping that replies left behind.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from .batch import Batch, Span
from .decoding import Vocabulary
from .reply import Reply
from .runner import Runner
from .sampling import Choice, choose
from .scheduler import Chunk, Scheduler
from .stream import Post
from .types import Delta, Failure, Finish, FinishReason, Reading

log = logging.getLogger("steerdeck.engine")

NOT_FINITE = (
    "The model's logits are not finite any more: the steering is too strong for it. "
    "Lower the strengths."
)


class Job(NamedTuple):
    """A reply's part of a step: its next token, or a chunk of its prompt."""

    reply: Reply
    chunk: Chunk | None

    @property
    def samples(self) -> bool:
        return self.chunk is None or self.chunk.stop == self.reply.length


class Made(NamedTuple):
    """What a job gave: a choice if it samples. `error` instead, if it raised."""

    choice: Choice | None = None
    readings: tuple[Reading, ...] = ()
    error: str | None = None


class Steps:
    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler[Reply],
        vocabulary: Vocabulary,
        eos: frozenset[int],
    ) -> None:
        self.runner = runner
        self.scheduler = scheduler
        self.replies: dict[str, Reply] = {}
        self._special = vocabulary.special
        self._eos = eos
        self._housekeeping: list[Callable[[], None]] = []

    def drop_cancelled(self) -> list[Post]:
        posts: list[Post] = []
        for reply in [reply for reply in self.replies.values() if reply.cancelled]:
            self._clear(reply)
            self._leave(reply)
            rest = reply.rest()
            if rest:
                posts.append((reply.stream, Delta(rest, ())))
            posts.append((reply.stream, reply.finish(FinishReason.CANCELLED)))
        return posts

    def plan(self) -> list[Job]:
        """Admit, switch steering that is due, and say who does what in this step."""
        running = self.scheduler.running
        for reply in running[self.scheduler.decoding :]:
            reply.start_over_if_asked()
        step = self.scheduler.next_step()
        jobs = [Job(reply, None) for reply in running[: step.decoding]]
        jobs += [Job(running[chunk.row], chunk) for chunk in step.chunks]
        for job in jobs:
            reply = job.reply
            reply.in_flight = job.samples
            steering = reply.due()
            if steering is not None:
                write = self.runner.steerer.write
                self._housekeeping.append(partial(write, reply.row, steering))
        return jobs

    def compute(self, jobs: list[Job]) -> list[Made]:
        """Run the step. If it raises, each job runs alone, and only those that raise again fail."""
        for task in self._housekeeping:
            task()
        self._housekeeping.clear()
        return self._attempt(jobs) if jobs else []

    def _attempt(self, jobs: list[Job]) -> list[Made]:
        try:
            return self._forward(jobs)
        except Exception as error:
            if len(jobs) == 1:
                log.exception("a step of generation %s failed", jobs[0].reply.request.id)
                return [Made(error=f"A step of this reply failed: {error or type(error).__name__}")]
            return [made for job in jobs for made in self._attempt([job])]

    def _forward(self, jobs: list[Job]) -> list[Made]:
        decoding = [job.reply for job in jobs if job.chunk is None]
        batch = Batch(
            first=decoding[0].row if decoding else 0,
            tokens=[reply.last for reply in decoding],
            positions=[reply.computed for reply in decoding],
            steerable=[reply.last not in self._special for reply in decoding],
            spans=tuple(_span(job.reply, job.chunk) for job in jobs if job.chunk is not None),
            traced=any(job.reply.request.trace for job in jobs),
        )
        logits = self.runner.forward(batch)
        sampling = [job.reply for job in jobs if job.samples]
        choices = iter(choose(logits, [reply.sampler for reply in sampling]) if sampling else ())
        return [
            Made(next(choices), self._readings(job.reply)) if job.samples else Made()
            for job in jobs
        ]

    def _readings(self, reply: Reply) -> tuple[Reading, ...]:
        return self.runner.steerer.readings(reply.row) if reply.request.trace else ()

    def settle(self, jobs: list[Job], results: list[Made]) -> list[Post]:
        """Note what was made; the events it gives. Rows move once every reply is up to date."""
        posts: list[Post] = []
        ends: list[tuple[Reply, Finish | Failure]] = []
        for job, made in zip(jobs, results, strict=True):
            job.reply.in_flight = False
            delta, end = self._take(job, made)
            if delta is not None:
                posts.append((job.reply.stream, delta))
            if end is not None:
                ends.append((job.reply, end))
        for reply, end in ends:
            if isinstance(end, Failure):
                self._clear(reply)
            self._leave(reply)
        self.scheduler.settle()
        return posts + [(reply.stream, end) for reply, end in ends]

    def _take(self, job: Job, made: Made) -> tuple[Delta | None, Finish | Failure | None]:
        reply, chunk = job
        if made.error is not None:
            return None, Failure(made.error)
        reply.computed_to(chunk.stop if chunk else None, self._special)
        if made.choice is None:
            return None, None
        if made.choice.token < 0:
            return None, Failure(NOT_FINITE)
        delta, reason = reply.accept(made.choice, self._eos, made.readings)
        return delta, None if reason is None else reply.finish(reason)

    def _clear(self, reply: Reply) -> None:
        """Its keys and values may not be finite; nobody after it may meet them."""
        if reply.row >= 0:
            written = reply.length + reply.count
            self._housekeeping.append(partial(self.runner.cache.clear, reply.row, written))

    def _leave(self, reply: Reply) -> None:
        del self.replies[reply.request.id]
        ran = reply.row >= 0
        for source, target in self.scheduler.leave(reply):
            length = self.scheduler.running[target].computed
            self._housekeeping.append(partial(self.runner.move, source, target, length))
        if ran:
            freed = len(self.scheduler.running)
            self._housekeeping.append(partial(self.runner.steerer.write, freed, None))


def _span(reply: Reply, chunk: Chunk) -> Span:
    part = slice(chunk.start, chunk.stop)
    tokens, steerable = reply.request.prompt[part], reply.request.steerable[part]
    return Span(chunk.row, chunk.start, tokens, steerable, chunk.stop == reply.length)
