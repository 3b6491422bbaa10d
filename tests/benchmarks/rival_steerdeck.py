"""Steerdeck's engine in process, without HTTP: eager, as a server is unless asked, or compiled, or
compiled in eight bits.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from rival_work import Job, Work

from dictionaries.edits import Op
from dictionaries.formats import open_dictionary
from server.engine.engine import SlotEngine
from server.engine.load import load_model
from server.engine.types import Delta, Failure, FeatureEdit, Request, Sampling, Steering
from server.receipt import versions


class Eager:
    version = versions()["steerdeck"]
    op, batch, shared = "clamp", "continuous", False
    compiled, weights = False, None

    def __init__(self, work: Work) -> None:
        self.work = work
        self.engine = SlotEngine(
            *load_model(Path(work.model), device="cpu", dtype="float32"),
            {"sae": open_dictionary(work.sae, id="sae")},
            threads=work.threads,
            compiled=Path(work.kept) / "compiled" if self.compiled else None,
            weights=self.weights,
        )
        self.engine.start()

    def run(self, job: Job) -> list[list[int]]:
        return asyncio.run(self._run(job))

    async def _run(self, job: Job) -> list[list[int]]:
        requests = map(self.request, job.rows, job.features, [job] * len(job.rows))
        return await asyncio.gather(*(self._one(request) for request in requests))

    def request(self, row: int, features: list[int], job: Job) -> Request:
        """Every token of the prompt is steered, as the others do it."""
        edit = Op(job.op).edit(self.work.strength)
        edits = (FeatureEdit("sae", i, Op(job.op), self.work.strength, edit) for i in features)
        prompt = tuple(self.work.prompts[row])
        sampling = Sampling(temperature=0.0, max_tokens=job.tokens, ignore_eos=True)
        flags = (True,) * len(prompt)
        return Request(f"row-{row}", prompt, flags, sampling, Steering(tuple(edits)))

    async def _one(self, request: Request) -> list[int]:
        ids: list[int] = []
        async for event in self.engine.submit(request):
            if isinstance(event, Failure):
                raise RuntimeError(event.message)
            if isinstance(event, Delta):
                ids += [token.id for token in event.tokens]
        return ids

    def close(self) -> None:
        self.engine.close()


class Compiled(Eager):
    """As of `serve --compile`, from when its layers are made, or were found."""

    compiled = True

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        while self.engine.compilation == "running":
            time.sleep(2)
            self.run(Job([0], work.features[:1], self.op, 1))  # they are put in between two passes
        if self.engine.compilation != "on":
            why = "are run whole by our own code" if self.engine.compilation == "off" else "failed"
            self.close()
            raise RuntimeError(f"nothing was compiled: its layers {why}")


class Eight(Compiled):
    """As of `serve --compile --dtype int8`."""

    weights = "int8"
