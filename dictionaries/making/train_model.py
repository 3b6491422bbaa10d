"""Train the language model: a small Llama on packed samples, resumable, to a clock or a count."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .arithmetic import quick
from .dealing import Sample
from .dropout import dropping
from .feeders import APART, fed
from .following import Following
from .loss import held_out_loss, reply_loss
from .muon import Muon
from .packing import Batch, batches
from .tokenizer import Encoder

log = logging.getLogger("steerdeck.making")

_SAVE_SECONDS = 120.0

Deal = Callable[[int], Iterator[Sample]]
"""Samples without end, from a seed."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of the model. The defaults are foghorn's."""

    hidden: int = 256
    layers: int = 6
    heads: int = 4
    mlp: int = 1408
    context: int = 512


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how. Training ends at `minutes` of its own time or at `steps`, the first met.

    Only a plan in steps, without workers and on a CPU, is the same on every machine.
    """

    minutes: float | None = 60.0
    steps: int | None = None
    rows: int = 16
    length: int = 256
    muon_lr: float = 3e-3
    adam_lr: float = 2.5e-3
    warmup: float = 0.02  # of the plan
    steady_until: float = 0.04
    dropout: float = 0.15  # see `dropout.dropping`
    words: float = 0.0  # likewise
    compiled: bool = False  # a quarter faster after about a minute, and needs a C++ compiler
    workers: int = 0  # processes that compose; 0: this one, between two steps
    seed: int = 0

    def progress(self, step: int, seconds: float) -> float:
        """0 at the start, 1 at the end."""
        by_step = step / self.steps if self.steps else 0.0
        by_clock = seconds / (self.minutes * 60) if self.minutes else 0.0
        return max(by_step, by_clock)

    def rate(self, progress: float) -> float:
        """Factor on the learning rates: up, level, then down to nearly nothing in a line."""
        up = (progress + 1e-3) / self.warmup
        down = (1 - progress) / (1 - self.steady_until)
        return max(0.01, min(1.0, up, down))


LARGE: dict[str, Any] = {
    "rows": 256,
    "muon_lr": 5e-3,
    "adam_lr": 4e-3,
    "words": 0.1,
    "compiled": True,
}
"""What a plan is on a GPU, which takes in large steps what a CPU takes in small ones."""
LARGEST = Shape(hidden=384, layers=8, heads=6)
"""What a GPU trains: as many weights as bfloat16 writes in 40 MB."""


def new_model(tokenizer: PreTrainedTokenizerFast, shape: Shape, *, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.mlp,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


class Trainer:
    """One training run in a folder. Made again on the same folder, it goes on where it stopped."""

    def __init__(
        self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, plan: Plan, folder: Path
    ) -> None:
        self.model, self.tokenizer, self.plan, self.folder = model, tokenizer, plan, folder
        learnt = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in learnt if p.ndim == 2 and "embed" not in name]
        ids = {id(p) for p in matrices}
        rest = [p for _, p in learnt if id(p) not in ids]
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=plan.muon_lr),
            torch.optim.AdamW(rest, lr=plan.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self._rates = [plan.muon_lr, plan.adam_lr]
        self._decoder = torch.compile(model.model, dynamic=False) if plan.compiled else model.model
        self.step, self.seconds, self.tokens = 0, 0.0, 0
        self._resume()
        self.shared_progress = torch.tensor(self.progress)  # in memory, with processes that deal
        self.shared_progress.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def progress(self) -> float:
        return self.plan.progress(self.step, self.seconds)

    def train(
        self,
        deal: Deal,
        held_out: Sequence[Batch] = (),
        every: int = 150,
        until: float = 1.0,
        following: Following | None = None,
    ) -> None:
        """Train until that progress, within `running`."""
        encoder, seed = Encoder(self.tokenizer), self.plan.seed + self.step
        mark = following.mark if following is not None else _unmarked

        def packed(worker: int) -> Iterator[Batch]:
            samples = deal(seed + APART * worker)
            encoded = (encoder.encode(s)._replace(mark=mark(s)) for s in samples)
            return batches(encoded, rows=self.plan.rows, length=self.plan.length, pad=self._pad)

        dealt = fed(packed, self.plan.workers)
        saved, running = time.monotonic(), None
        while self.progress < until:
            began = time.monotonic()
            batch = next(dealt)
            if following is not None:
                following.take(batch)
            loss = self.update(batch)
            running = loss if running is None else torch.lerp(running, loss, 0.03)
            if self.step % every == 0:
                self._report(running, held_out)
            self.seconds += time.monotonic() - began
            self.shared_progress.fill_(self.progress)
            if time.monotonic() - saved > _SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        self.save()
        self._report(running, held_out)

    def update(self, batch: Batch) -> Tensor:
        """One step on one batch; its loss."""
        self.model.train()
        rate = self.plan.rate(self.progress)
        for optimizer, lr in zip(self.optimizers, self._rates, strict=True):
            optimizer.param_groups[0]["lr"] = lr * rate
        self.tokens += int((batch.segment > 0).sum())
        batch = batch.to(self.model.device)
        with quick(self.model.device), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.plan.seed + self.step)  # what is dropped: a resumed run's, too
            loss = reply_loss(self.model, batch, self._decoder)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.detach()

    def save(self) -> None:
        """Everything needed to go on; replaces the last checkpoint in one step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "at": (self.step, self.seconds, self.tokens),
        }
        torch.save(state, self.folder / "checkpoint.tmp")
        (self.folder / "checkpoint.tmp").replace(self.folder / "checkpoint.pt")

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if path.is_file():
            state = torch.load(path, map_location=self.model.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.seconds, self.tokens = state["at"]
            log.info("resumed at step %d", self.step)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around all stages of a training, so that a step is compiled once: within it there is
        dropout, and the quickest attention. Fused by the compiler, plain attention takes half the
        time that the CPU's flash attention takes with a mask.
        """
        before = self.model.config._attn_implementation
        fused = self.plan.compiled and self.model.device.type == "cpu"
        self.model.set_attn_implementation("eager" if fused else before)
        try:
            with dropping(self.model, self.plan.dropout, self.plan.words):
                yield
        finally:
            self.model.set_attn_implementation(before)

    @property
    def _pad(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def _report(self, loss: Tensor | None, held_out: Sequence[Batch]) -> None:
        facts = {
            "step": self.step,
            "progress": round(self.progress, 4),
            "tokens": self.tokens,
            "tokens_per_second": round(self.tokens / max(self.seconds, 1e-9)),
            "loss": None if loss is None else round(loss.item(), 4),
            "held_out": round(held_out_loss(self.model, held_out), 4) if held_out else None,
        }
        log.info("%s", json.dumps(facts))
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.jsonl").open("a") as lines:
            lines.write(json.dumps(facts) + "\n")


def _unmarked(_sample: Sample) -> int:
    return 0
