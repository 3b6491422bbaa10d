"""A training on its way: rounds of steps, and its state on disk."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .end_to_end import Cost
from .feed import Feed, Place, Text, usual
from .splice import Spliceable
from .train_plan import TrainPlan, check_same
from .train_sae import Learner, SaePlan

log = logging.getLogger("steerdeck.making")

Advance = Callable[[float, str], None]

_CHECKPOINT = 120.0  # seconds between two
_NOTED = 20  # steps between two readings of the loss, which wait for the device


class Run:
    """made: what the state is told by (`train_plan.made`). Begins where `work` says it came to.

    Raises DictionaryError if `work` holds the state of another training.
    """

    def __init__(
        self, subject: Spliceable, text: Text, plan: TrainPlan, work: Path, made: dict[str, Any]
    ) -> None:
        self.plan, self.work, self.made = plan, work, made
        self._subject = subject
        self.d_in = d_in = subject.d_in
        self.feed = Feed(
            subject,
            text,
            context=plan.context,
            rows=plan.rows,
            size=plan.round(d_in),
            seed=plan.seed,
        )
        self.tokens = 0
        self.stored = 0  # tokens of the state on disk
        self._whole: Place | None = None  # where the text was when the last whole round ended
        self._learner: Learner | None = None
        self._state: dict[str, Any] | None = None  # of the learner, until its device is known
        self._note = ""
        self._restore()

    @property
    def learner(self) -> Learner:
        return self._learner or self._begun(torch.ones(1, self.d_in))

    def go(self, advance: Advance) -> None:
        """To the end of the plan, with a checkpoint after the first round and now and then, between
        two rounds. Interrupted, it keeps what it can, and the KeyboardInterrupt says how far.
        """
        try:
            self._go(advance)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self._kept()) from None

    def _go(self, advance: Advance) -> None:
        stored = time.monotonic() if self.stored else -math.inf
        advance(min(self.tokens, self.plan.tokens), "")
        self._whole = replace(self.feed.place)
        while self.tokens < self.plan.tokens:
            if self.tokens < self.plan.without_costs:
                self._round(advance)
            else:
                self._costed(advance)
            self._whole = replace(self.feed.place)
            if self.tokens >= self.plan.tokens or time.monotonic() - stored > _CHECKPOINT:
                self._store()
                stored = time.monotonic()

    def _kept(self) -> str:
        """A round that was being read is dropped; its steps, once begun, cannot be undone."""
        if self._whole is not None and self.tokens > self.stored:
            self.feed.place = self._whole
            self._store()
        if not self.stored:
            return "stopped before the first round was over: the same command begins anew"
        return f"stopped; the same command goes on after {self.stored:,} tokens"

    def _round(self, advance: Advance) -> None:
        until, plan = self.plan.without_costs, self.plan
        left = -(-(until - self.tokens) // plan.batch) * plan.batch
        x = self.feed.round(
            left, told=lambda read: advance(self.tokens, f"reading {read:,}{self._note}")
        )
        learner = self._learner or self._begun(x)
        size = self.plan.batch
        for start in range(0, max(1, len(x) // size) * size, size):
            if self.tokens >= until:
                break
            self._step(learner, x[start : start + size], None, advance)

    def _costed(self, advance: Advance) -> None:
        """A step on text as it comes, with what the reconstruction costs the model."""
        limit = self.feed.limit
        assert limit is not None  # found in the first round
        x, cost = self._subject.costed(self.feed.batch(), lambda x: usual(x, limit))
        if len(x):
            self._step(self._learner or self._begun(x), x, cost, advance)

    def _step(self, learner: Learner, x: Tensor, cost: Cost | None, advance: Advance) -> None:
        self._whole = None
        seen = learner.step(x, self.tokens / self.plan.tokens, cost)
        self.tokens += len(x)
        if learner.steps % _NOTED == 1:
            loss, fvu, l0 = (float(number) for number in seen)
            self._note = f"; loss {loss:.2f}, FVU {fvu:.3f}, L0 {l0:.1f}, dead {learner.dead}"
        advance(min(self.tokens, self.plan.tokens), self._note.removeprefix("; "))

    def _begun(self, x: Tensor) -> Learner:
        """The learner, new from x or as it was stored, on the device where x is."""
        plan = self.plan
        sparse = SaePlan(
            d_sae=plan.width(self.d_in),
            k=plan.k,
            batch=plan.batch,
            lr=plan.rate(self.d_in),
            seed=plan.seed,
        )
        self._learner = Learner(sparse, x)
        if self._state is not None:
            self._learner.restore(self._state)
            self._state = None
        return self._learner

    def _store(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        state = {
            "learner": self.learner.state(),
            "place": asdict(self.feed.place),
            "limit": self.feed.limit,
            "tokens": self.tokens,
        }
        torch.save(state, self.work / "state.new")
        write(self.work / "made.json", json.dumps(self.made, indent=2) + "\n")
        os.replace(self.work / "state.new", self.work / "state.pt")
        self.stored = self.tokens

    def _restore(self) -> None:
        if not (self.work / "state.pt").is_file():
            return
        known = json.loads((self.work / "made.json").read_text("utf-8"))
        check_same(known, self.made, self.work, trained=True)
        state = torch.load(self.work / "state.pt", weights_only=True, map_location="cpu")
        self._state = state["learner"]
        self.feed.place, self.feed.limit = Place(**state["place"]), state["limit"]
        self.tokens = self.stored = state["tokens"]
        log.info("going on after %s tokens, from %s", f"{self.tokens:,}", self.work)


def write(path: Path, text: str) -> None:
    """All of it or nothing."""
    new = path.with_name(path.name + ".new")
    new.write_text(text, "utf-8")
    os.replace(new, path)
