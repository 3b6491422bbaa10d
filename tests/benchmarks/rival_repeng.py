"""repeng: a control vector on a layer, here one for each row of a static batch."""

from __future__ import annotations

from importlib.metadata import version

import torch
from repeng import ControlModel
from rival_work import Job, Work, greedy
from transformers import AutoModelForCausalLM


class Subject:
    version = version("repeng")
    op, batch, shared = "add", "static", False

    def __init__(self, work: Work) -> None:
        self.work = work
        model = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32).eval()
        self.model = ControlModel(model, [work.layer])

    @torch.no_grad()
    def run(self, job: Job) -> list[list[int]]:
        pushes = self.work.pushes(job.features)[:, None]  # a set_control knows one for all rows
        self.model.set_raw_control({self.work.layer: pushes})
        ids = torch.tensor([self.work.prompts[row] for row in job.rows])
        out = self.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **greedy(job.tokens)
        )
        replies: list[list[int]] = out[:, ids.shape[1] :].tolist()
        return replies
