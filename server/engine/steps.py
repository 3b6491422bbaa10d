"""What the engine's thread does in one step: plan, compute, settle.

`plan` and `settle` are called with the engine's lock held and touch no tensor; `compute` is called
without it and does all the work, including the housekeeping that replies left behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from .pace import Pace
from .passes import Job, Made, Passes
from .reply import Reply
from .reuse import Reuse
from .runner import Runner
from .scheduler import Scheduler
from .shadow import Shadow
from .stream import Post
from .types import Delta, Failure, Finish, FinishReason

NOT_FINITE = (
    "The model's logits are not finite any more: the steering is too strong for it. "
    "Lower the strengths."
)


class Steps:
    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler[Reply | Shadow],
        eos: frozenset[int],
    ) -> None:
        self.runner = runner
        self.scheduler = scheduler
        self.replies: dict[str, Reply] = {}
        self._passes = Passes(runner)
        self._eos = eos
        self._pace = Pace(scheduler.chunk)
        self._housekeeping: list[Callable[[], None]] = []
        self.reuse = Reuse(runner.pool, self._housekeeping.append, lambda: runner.arithmetic)
        scheduler.admitted = self._admitted

    def drop_cancelled(self) -> list[Post]:
        posts: list[Post] = []
        for reply in [reply for reply in self.replies.values() if reply.cancelled]:
            if reply.proved:
                self.reuse.keep(reply)
            else:
                self._clear(reply)
            self._leave(reply)
            if rest := reply.rest():
                posts.append((reply.stream, rest))
            posts.append((reply.stream, reply.finish(FinishReason.CANCELLED)))
        return posts

    def plan(self) -> list[Job]:
        """Admit, switch steering that is due, and say who does what in this step."""
        running = self.scheduler.running
        for ticket in running[self.scheduler.decoding :]:
            if isinstance(ticket, Reply) and ticket.start_over_if_asked():
                self.reuse.begin(ticket)
        self.scheduler.chunk = self._pace.chunk(self.scheduler.decoding, self.scheduler.coming)
        step = self.scheduler.next_step()
        jobs = [Job(ticket) for ticket in running[: step.decoding]]
        jobs += [Job(running[chunk.row], chunk) for chunk in step.chunks]
        jobs += [Job(running[row], heir=True) for row in step.heirs]
        for job in jobs:
            reply = job.reply
            if not job.leads:
                continue
            reply.in_flight = job.ends
            steering = reply.due()
            if steering is not None:
                write = self.runner.steerer.write
                anew = reply.count == 0
                task = partial(write, reply.row, steering, reply.length, anew=anew)
                self._housekeeping.append(task)
        for job in jobs:
            if job.heir:
                origin, row, length = job.ticket.origin.row, job.ticket.row, job.ticket.length
                self._housekeeping.append(partial(self.runner.cache.move, origin, row, length))
        return jobs

    def _admitted(self, group: Sequence[Reply | Shadow]) -> None:
        """To nothing of their prompt yet: there is nothing to start over."""
        if isinstance(group[0], Reply):
            group[0].restart = False
            self.reuse.begin(group[0])

    def compute(self, jobs: list[Job]) -> list[Made]:
        """Run the step, after what the last ones left to do."""
        for task in self._housekeeping:
            task()
        self._housekeeping.clear()
        began = time.perf_counter()
        made = self._passes.run(jobs)
        prompt = sum(job.chunk.stop - job.chunk.start for job in jobs if job.chunk is not None)
        self._pace.took(self.scheduler.decoding, prompt, time.perf_counter() - began)
        return made

    def settle(self, jobs: list[Job], results: list[Made]) -> list[Post]:
        """Note what was made; the events it gives. Rows move once every reply is up to date."""
        posts: list[Post] = []
        ends: list[tuple[Reply, Finish | Failure, bool]] = []
        for job, made in zip(jobs, results, strict=True):
            if isinstance(job.ticket, Shadow):
                if job.stop is not None:
                    job.ticket.done = job.stop
                continue
            job.reply.in_flight = False
            if job.heir:
                assert isinstance(job.ticket.source, Reply)
                job.reply.arithmetic |= job.ticket.source.arithmetic
                job.ticket.source = None
            delta, end = self._take(job, made)
            failed = isinstance(end, Failure)
            finite = made.choice is not None and made.choice.token >= 0 and not failed
            if finite and (end is not None or job.chunk is not None):
                self.reuse.keep(job.reply)
            if delta is not None:
                posts.append((job.reply.stream, delta))
            if end is not None:
                ends.append((job.reply, end, finite))
        for reply, _, finite in ends:
            if not finite:
                self._clear(reply)
            self._leave(reply)
        self.scheduler.settle()
        return posts + [(reply.stream, end) for reply, end, _ in ends]

    def _take(self, job: Job, made: Made) -> tuple[Delta | None, Finish | Failure | None]:
        reply = job.reply
        if made.error is not None:
            return None, Failure(made.error)
        if reply.restart:  # what this chunk was steered by, and showed, does not count any more
            return None, None
        reply.computed_to(job.stop, made.seen)
        reply.arithmetic[self.runner.arithmetic] = None
        found = made.scores if made.choice is None else [*made.scores, made.choice]
        if any(choice.token < 0 for choice in found):
            return None, Failure(NOT_FINITE)  # even if aborted: what the row holds is not finite
        reply.notes.take(made.observed, made.scores)
        if reply.aborted:
            return reply.rest(), reply.finish(FinishReason.ABORT)
        if made.choice is None:
            return None, None
        delta, reason = reply.accept(made.choice, self._eos, made.readings, made.difference)
        if made.verdict is not None:
            delta, reason = reply.heed(made.verdict, delta, reason)
        return delta, None if reason is None else reply.finish(reason)

    def _clear(self, reply: Reply) -> None:
        """Its keys and values may not be finite; nobody after it may meet them."""
        written = reply.length + reply.count
        for ticket in reply.rows:
            if ticket.row >= 0:
                self._housekeeping.append(partial(self.runner.cache.clear, ticket.row, written))

    def _leave(self, reply: Reply) -> None:
        del self.replies[reply.request.id]
        for ticket in reply.rows:
            ran = ticket.row >= 0
            for source, target in self.scheduler.leave(ticket):
                mover = self.scheduler.running[target]
                move = partial(self.runner.move, source, target, mover.computed)
                self._housekeeping.append(move)
                if not mover.proved:
                    clear = partial(self.runner.cache.clear, source, mover.length)
                    self._housekeeping.append(clear)
            if ran:
                freed = len(self.scheduler.running)
                self._housekeeping.append(partial(self.runner.steerer.write, freed, None))
