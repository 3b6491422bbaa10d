"""transformers with a forward hook: one reply at a time, a static batch, its continuous batching.

The first is what anybody writes, the second the measure of everybody's tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from rival_work import Job, Work, greedy
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from dictionaries.edits import EditTable, FeatureRows, Op, steer
from dictionaries.formats import open_dictionary


class Steered:
    """A model whose one layer's output is edited row by row. All rows have as many edits."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.model = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32).eval()
        self.dictionary = open_dictionary(work.sae)

    def edit(self, job: Job) -> Callable[[torch.Tensor], torch.Tensor]:
        """x [rows, tokens, d_model] -> x'."""
        count = len(job.features[0])
        flat = self.dictionary.rows([i for row in job.features for i in row])
        enc, gain, offset, gate, threshold, dec = (
            part.unflatten(0, (len(job.rows), count)) for part in parts(flat)
        )
        one = [part.unsqueeze(1) for part in (gain, offset, gate, threshold)]
        rows = FeatureRows(enc, *one, dec)
        table = EditTable.of([Op(job.op).edit(self.work.strength)] * count)
        return lambda x: steer(x, rows, table, norm=self.dictionary.info.norm)

    @contextmanager
    def steered(self, job: Job) -> Any:
        if job.op == "none":
            yield
            return
        edit = self.edit(job)
        layer = self.model.model.layers[self.work.layer]
        handle = layer.register_forward_hook(lambda _module, _args, x: edit(x))
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def reply(self, job: Job) -> list[list[int]]:
        """All rows as one batch."""
        ids = torch.tensor([self.work.prompts[row] for row in job.rows])
        with self.steered(job):
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), **greedy(job.tokens)
            )
        replies: list[list[int]] = out[:, ids.shape[1] :].tolist()
        return replies


def parts(rows: FeatureRows) -> tuple[torch.Tensor, ...]:
    return rows.enc, rows.gain, rows.offset, rows.gate, rows.threshold, rows.dec


class Alone(Steered):
    version = transformers.__version__
    op, batch, shared = "clamp", None, False

    def run(self, job: Job) -> list[list[int]]:
        alone = zip(job.rows, job.features, strict=True)
        each = [Job([row], [features], job.op, job.tokens) for row, features in alone]
        return [ids for one in each for ids in self.reply(one)]


class Static(Steered):
    """Its hook clamps other features on every row."""

    version = transformers.__version__
    op, batch, shared = "clamp", "static", False

    def run(self, job: Job) -> list[list[int]]:
        return self.reply(job)


class Paged(Steered):
    """Continuous batching, whose hooks are not told which request a token is of: one for all."""

    version = transformers.__version__
    op, batch, shared = "clamp", "continuous", True

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        # without the sizes it takes 14 GB; a shared prefix would be of another configuration's
        sizes = ContinuousBatchingConfig(
            num_blocks=64, max_batch_tokens=512, allow_block_sharing=False
        )
        config = GenerationConfig(do_sample=False, eos_token_id=None, pad_token_id=0)
        self.manager = self.model.init_continuous_batching(config, sizes)
        self.manager.start()

    def run(self, job: Job) -> list[list[int]]:
        with self.steered(Job([0], job.features[:1], job.op, job.tokens)):
            names = [
                self.manager.add_request(self.work.prompts[row], max_new_tokens=job.tokens)
                for row in job.rows
            ]
            made: dict[str, list[int]] = {}
            while len(made) < len(names):
                output = self.manager.get_result(timeout=1)
                if output is None and not self.manager.is_running():
                    raise RuntimeError("its thread ended")
                if output is not None and output.error:
                    raise RuntimeError(output.error)
                if output is not None and output.is_finished():
                    made[output.request_id] = output.generated_tokens
        return [made[name] for name in names]

    def close(self) -> None:
        self.manager.stop(block=True)
