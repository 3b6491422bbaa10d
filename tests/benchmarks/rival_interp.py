"""Neuronpedia's interp-engine in its eager mode: one request at a time, a vector on a layer."""

from __future__ import annotations

from importlib.metadata import version

import torch
from interp_engine import SteerSpec, generate_stream, load_model, steer
from rival_work import Job, Work


class Subject:
    version = version("interp-engine")
    op, batch, shared = "add", None, False

    def __init__(self, work: Work) -> None:
        self.work = work
        self.model = load_model(work.model, backend="eager", device="cpu", dtype="float32")

    def run(self, job: Job) -> list[list[int]]:
        return list(
            map(self.reply, job.rows, self.work.pushes(job.features), [job] * len(job.rows))
        )

    def reply(self, row: int, push: torch.Tensor, job: Job) -> list[int]:
        ids = torch.tensor([self.work.prompts[row]])
        with steer(self.model, [SteerSpec(vector=push, layer=self.work.layer)]):
            steps = generate_stream(
                self.model, ids, max_tokens=job.tokens, temperature=0.0, stop_at_eos=False
            )
            return [int(step.token_id) for step in steps]
