"""The engine: one thread that owns the model, and the calls that reach it from event loops.

    event loop     submit, steer, drop  ->  scheduler and replies, guarded by one Condition
    engine thread  plan (locked) -> forward pass and sampling (not locked) -> settle (locked)
                   -> one wake-up for each event loop with all events of the step

A stream ends with exactly one Finish or Failure: Steps and `_run` alone say so.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dictionaries.dictionary import Dictionary

from ..errors import EngineDead, UnknownGeneration
from .admission import Admission, check_names
from .checks import check_room
from .decoding import Vocabulary, ends
from .gpu.graphs import Capture
from .linear import Rounding
from .prompts import link
from .reply import Reply
from .runner import Runner
from .scheduler import Scheduler
from .seam import Capabilities, Stats
from .shadow import Shadow
from .sites import longest_context, text_config
from .steps import Steps
from .stream import Stream, deliver
from .types import Failure, Request, Steering

log = logging.getLogger("steerdeck.engine")


class SlotEngine:
    """Continuous batching over KV slots, every row steered and sampled its own way. `seam.Engine`
    says what its calls promise.

    model, tokenizer: from transformers; the model belongs to the engine from here on.
    max_context: positions a reply may take, prompt and all; by default what the model was made
    for, at most 4096. chunk: prompt tokens computed in one step, fewer while replies are running.
    threads: of the CPU; by default as many as make a step fastest. compiled: a folder in which
    compiled layers are kept, made in the background if they are not there; none: nothing is.
    prefix_cache: bytes of keys and values kept for prompts that begin like an earlier one or its
    reply. graphs: whether decode steps are captured, and layers run in fewer kernels, on an NVIDIA
    GPU; elsewhere nothing is.
    Raises SteerdeckError for a model that it cannot run, Unsteerable for a dictionary that does
    not fit it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        dictionaries: Mapping[str, Dictionary],
        *,
        max_rows: int = 32,
        max_waiting: int = 64,
        max_context: int | None = None,
        max_edits: int = 16,
        chunk: int = 256,
        threads: int | None = None,
        prefix_cache: int = 0,
        compiled: Path | None = None,
        weights: Rounding | None = None,
        graphs: bool | Capture = True,
    ) -> None:
        config = text_config(model)
        context = min(max_context or 4096, longest_context(config))
        self._vocabulary = Vocabulary(tokenizer)
        self._changed = threading.Condition()
        self._runner = Runner(
            model,
            dictionaries,
            rows=max_rows,
            capacity=context,
            max_edits=max_edits,
            threads=threads,
            prefix_cache=prefix_cache,
            compiled=compiled,
            found=self._wake,
            weights=weights,
            graphs=graphs,
        )
        self._capabilities = Capabilities(
            device=str(model.device),
            dtype=weights or str(model.dtype).removeprefix("torch."),
            max_rows=max_rows,
            max_waiting=max_waiting,
            max_context=self._runner.context,
            max_edits=max_edits,
            layers=config.num_hidden_layers,
            d_model=config.hidden_size,
            vocab_size=config.vocab_size,
            thinks=self._vocabulary.marks.thinks,
            no_vectors=self._runner.steerer.no_vectors,
            prefix_bytes=self._runner.pool.bytes,
            prefix_tokens=self._runner.pool.positions,
        )
        self._admission = Admission(self._capabilities, self._runner.steerer)
        self._scheduler: Scheduler[Reply | Shadow] = Scheduler(max_rows, max_waiting, chunk)
        self._steps = Steps(self._runner, self._scheduler, ends(model, tokenizer))
        self._closing = False
        self._death: str | None = "was not started"
        self._thread = threading.Thread(target=self._run, name="steerdeck-engine", daemon=True)

    def start(self) -> None:
        self._death = None
        self._thread.start()

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def compilation(self) -> str:
        return self._runner.compilation

    def check(self, request: Request) -> None:
        """What it takes, such as rows read from disk, is kept for `submit`."""
        self._admission.check(request)

    def submit(self, request: Request) -> Stream:
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[Request]) -> list[Stream]:
        replies = [self._reply(request) for request in requests]
        check_room(sum(len(reply.rows) for reply in replies), self._capabilities)
        link(replies)
        with self._changed:
            self._alive()
            check_names([request.id for request in requests], self._steps.replies)
            self._scheduler.add(*(reply.rows for reply in replies))
            self._steps.replies |= {reply.request.id: reply for reply in replies}
            self._changed.notify()
        return [reply.stream for reply in replies]

    def steer(self, generation_id: str, steering: Steering) -> int:
        prepared = self._runner.steerer.prepare(steering)
        with self._changed:
            reply = self._known(generation_id)
            at = reply.steer(prepared)
            if at == 0:
                self._scheduler.part(reply)
            return at

    def drop(self, generation_id: str) -> None:
        with self._changed:
            self._cancel(self._known(generation_id))

    def stats(self) -> Stats:
        with self._changed:
            kept, alive = self._steps.reuse.positions, self._death is None
            if not alive:
                return Stats(0, 0, False, kept)
            return Stats(len(self._scheduler.running), self._scheduler.queued, True, kept)

    def close(self) -> None:
        self._closing = True  # first: a step that ends now finds nobody to settle with
        self._die(self._death or "was closed")
        if self._thread.is_alive():
            self._thread.join()
        self._runner.close()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _cancel(self, reply: Reply) -> None:
        with self._changed:
            reply.cancelled = True
            self._changed.notify()

    def _known(self, generation_id: str) -> Reply:
        self._alive()
        reply = self._steps.replies.get(generation_id)
        if reply is None or reply.cancelled:
            raise UnknownGeneration(
                f"No generation {generation_id!r} is under way: it ended, or never was."
            )
        return reply

    def _alive(self) -> None:
        if self._death is not None:
            raise EngineDead(f"The engine {self._death}; restart the server.")

    def _reply(self, request: Request) -> Reply:
        stream = Stream(request.id, lambda: self._cancel(reply))
        turns, warden = self._admission.ready(request), self._admission.warden(request)
        reply = Reply(request, stream, turns, self._vocabulary, warden)
        return reply

    def _die(self, why: str) -> None:
        """Serve nobody from now on, and tell those who were."""
        with self._changed:
            self._death = why
            left = [*self._steps.replies.values()]
            self._steps.replies.clear()
            self._changed.notify()
        deliver([(reply.stream, Failure(f"The engine {why}.")) for reply in left])

    def _run(self) -> None:
        """The engine's thread."""
        why = "was closed"
        self._runner.enter()
        try:
            while self._step():
                pass
        except BaseException as error:
            why = f"stopped on {type(error).__name__}: {error}"
            log.exception("the engine thread died")
        self._die(why)

    def _step(self) -> bool:
        """One step; false when it is time to end."""
        with self._changed:
            while not (self._closing or self._steps.replies):
                self._runner.swap()
                self._changed.wait()
            if self._closing:
                return False
            cancelled = self._steps.drop_cancelled()
            jobs = self._steps.plan()
        deliver(cancelled)
        made = self._steps.compute(jobs)
        with self._changed:
            if self._closing:
                return False
            posts = self._steps.settle(jobs, made)
        deliver(posts)
        return True
