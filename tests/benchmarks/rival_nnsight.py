"""nnsight: an intervention on the layer's output at every generated token, each row its own."""

from __future__ import annotations

from importlib.metadata import version

import nnsight
import torch
from rival_generate import Steered
from rival_work import Job, Work, greedy
from transformers import AutoTokenizer


class Subject(Steered):
    version = version("nnsight")
    op, batch, shared = "clamp", "static", False

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        tokenizer = AutoTokenizer.from_pretrained(work.model)
        self.traced = nnsight.LanguageModel(self.model, tokenizer=tokenizer)

    @torch.no_grad()
    def run(self, job: Job) -> list[list[int]]:
        ids = torch.tensor([self.work.prompts[row] for row in job.rows])
        edit, layer = self.edit(job), self.traced.model.layers[self.work.layer]
        with self.traced.generate(ids, **greedy(job.tokens)) as tracer:
            for _ in tracer.iter[: job.tokens]:
                layer.output = edit(layer.output)
            out = tracer.result.save()
        replies: list[list[int]] = out[:, ids.shape[1] :].tolist()
        return replies
