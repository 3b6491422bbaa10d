"""The work of one step: a forward pass over its jobs, and what follows from the logits."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .batch import Batch, Span
from .conditions import Seen
from .contrast import Difference, Pair, differences
from .reply import Reply
from .runner import Runner
from .sampling import Choice, choose, rows
from .scheduler import Chunk
from .shadow import Shadow
from .types import Reading
from .vocabulary import entropies
from .warden import Verdict

log = logging.getLogger("steerdeck.engine")


class Job(NamedTuple):
    """A row's part of a step: its reply's next token, or a chunk of the prompt, or (an heir) the
    whole prompt as another row has computed it.
    """

    ticket: Reply | Shadow
    chunk: Chunk | None = None
    heir: bool = False

    @property
    def reply(self) -> Reply:
        return self.ticket.reply if isinstance(self.ticket, Shadow) else self.ticket

    @property
    def leads(self) -> bool:
        """Whether the row is the reply itself, and not its shadow."""
        return isinstance(self.ticket, Reply)

    @property
    def ends(self) -> bool:
        """Whether it gives the distribution of a next token."""
        return self.chunk is None or self.chunk.stop == self.ticket.length

    @property
    def stop(self) -> int | None:
        """Up to where the prompt is computed after it; None for a token of the reply."""
        if self.heir:
            return self.ticket.length
        return self.chunk.stop if self.chunk is not None else None


class Made(NamedTuple):
    """What a job gave: a choice if it ends and leads. `error` instead, if it raised.

    logits: [vocab], where the two rows of a reply are to be compared, or a guard watches it.
    """

    choice: Choice | None = None
    readings: tuple[Reading, ...] = ()
    logits: Tensor | None = None
    difference: Difference | None = None
    seen: Seen | None = None
    observed: Tensor | None = None
    scores: Sequence[Choice] = ()
    verdict: Verdict | None = None
    error: str | None = None


class Passes:
    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def run(self, jobs: list[Job]) -> list[Made]:
        """What each job gave. If the step raises each runs alone, and only those that raise again
        fail.
        """
        return self._judged(jobs, self._compared(jobs, self._attempt(jobs))) if jobs else []

    def _attempt(self, jobs: list[Job]) -> list[Made]:
        try:
            made = self._forward(jobs)
            self._wait()  # so that its errors and its time are of this step
            return made
        except Exception as error:
            if len(jobs) == 1:
                log.exception("a step of generation %s failed", jobs[0].reply.request.id)
                return [Made(error=_failed(error))]
            for job in jobs:
                job.reply.sampler.take_back()
            return [made for job in jobs for made in self._attempt([job])]

    def _wait(self) -> None:
        """A pass that nothing is read from returns before the device has computed it."""
        if self._runner.device.type != "cpu":
            torch.accelerator.synchronize(self._runner.device)

    def _forward(self, jobs: list[Job]) -> list[Made]:
        computed = [job for job in jobs if not job.heir]
        logits = self._logits(computed)
        seen = self._runner.steerer.seen() if computed else {}
        observed = self._runner.steerer.observed() if computed else {}
        scores = self._runner.scorer.scores if computed else {}
        taken = [job.ticket.origin.ended for job in jobs if job.heir]
        if taken:
            kept = torch.stack([one for one in taken if one is not None])
            logits = kept if logits is None else torch.cat([logits, kept])
        if logits is None:
            return [Made() for _ in jobs]
        ending, each = [job for job in jobs if job.ends], logits.unbind(0)
        for job, one in zip(ending, each, strict=True):
            if job.chunk is not None and job.reply.shared:
                job.ticket.ended = one.clone()
        leading = [i for i, job in enumerate(ending) if job.leads]
        samplers = [ending[i].reply.sampler for i in leading]
        choices = iter(choose(rows(logits, leading), samplers) if leading else ())
        own = iter(each)
        made = [self._made(job, next(own), choices) if job.ends else Made() for job in jobs]
        for i, job in enumerate(jobs):
            if not job.heir:
                row = job.ticket.row
                made[i] = made[i]._replace(
                    seen=seen.get(row), observed=observed.get(row), scores=scores.get(row, ())
                )
        return made

    def _logits(self, jobs: list[Job]) -> Tensor | None:
        """[ending jobs, vocab]: of a forward pass, if there is anything to compute."""
        if not jobs:
            return None
        decoding = [job for job in jobs if job.chunk is None]
        batch = Batch(
            first=decoding[0].ticket.row if decoding else 0,
            tokens=[job.reply.last for job in decoding],
            positions=[job.ticket.computed for job in decoding],
            steerable=[job.reply.touchable for job in decoding],
            spans=tuple(_span(job, job.chunk) for job in jobs if job.chunk is not None),
            traced=any(job.reply.request.trace for job in jobs),
            thinking=tuple(job.reply.region.thinking for job in decoding),
        )
        return self._runner.forward(batch)

    def _made(self, job: Job, logits: Tensor, choices: Iterator[Choice]) -> Made:
        kept = logits if job.reply.shadow is not None or job.reply.warden is not None else None
        if not job.leads:
            return Made(logits=kept)
        return Made(next(choices), self._readings(job.reply), kept)

    def _compared(self, jobs: list[Job], made: list[Made]) -> list[Made]:
        """What was made, with the difference between the two rows of a reply that has a shadow.

        If either failed, or they cannot be compared, the reply does.
        """
        beside = {job.reply: one for job, one in zip(jobs, made, strict=True) if not job.leads}
        pairs: dict[int, Pair] = {}
        for i, job in enumerate(jobs):
            if not job.leads or job.reply not in beside:
                continue
            other, own = beside[job.reply], made[i]
            if other.error is not None and own.error is None:
                made[i] = Made(error=other.error)
            elif own.choice is not None and own.choice.token >= 0:
                assert own.logits is not None
                assert other.logits is not None  # both end in the same step
                unsteered = own.logits if job.reply.untouched else other.logits
                pairs[i] = Pair(own.logits, unsteered, own.choice.token, job.reply.request.top)
        try:
            found = differences(list(pairs.values()))
        except Exception as error:
            log.exception("replies could not be compared with the unsteered model")
            return [Made(error=_failed(error)) if i in pairs else m for i, m in enumerate(made)]
        for i, difference in zip(pairs, found, strict=True):
            made[i] = made[i]._replace(difference=difference)
        return made

    def _judged(self, jobs: list[Job], made: list[Made]) -> list[Made]:
        """What was made, with what the guards of the replies say to it."""
        heard = {
            i: one.logits
            for i, (job, one) in enumerate(zip(jobs, made, strict=True))
            if job.leads and job.reply.warden is not None and one.logits is not None
        }
        if not heard:
            return made
        try:
            found = entropies(list(heard.values()))
            for i, entropy in zip(heard, found, strict=True):
                made[i] = made[i]._replace(verdict=self._verdict(jobs[i].reply, made[i], entropy))
        except Exception as error:
            log.exception("replies could not be guarded")
            return [Made(error=_failed(error)) if i in heard else m for i, m in enumerate(made)]
        return made

    @staticmethod
    def _verdict(reply: Reply, made: Made, entropy: float) -> Verdict | None:
        assert reply.warden is not None
        assert reply.steered is not None
        assert made.choice is not None
        kl = made.difference.kl if made.difference is not None else 0.0
        return reply.warden.hear(made.choice.token, entropy, kl, reply.steered)

    def _readings(self, reply: Reply) -> tuple[Reading, ...]:
        return self._runner.steerer.readings(reply.row) if reply.request.trace else ()


def _failed(error: Exception) -> str:
    return f"A step of this reply failed: {error or type(error).__name__}"


def _span(job: Job, chunk: Chunk) -> Span:
    part, request = slice(chunk.start, chunk.stop), job.reply.request
    tokens, steerable = request.prompt[part], request.steerable[part]
    own = chunk.row, chunk.start, tokens, steerable, job.ends
    if not job.leads:
        return Span(*own)
    following = request.prompt[chunk.start + 1 : chunk.stop + 1] if request.scored else ()
    return Span(*own, request.observe, following, request.sampling.logprobs or 0)
