"""Train the language model: a small Llama on packed samples, resumable, to a clock or a count."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .dealing import Sample
from .dropout import dropping
from .following import Following
from .loss import held_out_loss, reply_loss
from .muon import Muon, has_bfloat16_units
from .packing import Batch, batches
from .tokenizer import Encoder

log = logging.getLogger("steerdeck.making")

_SAVE_SECONDS = 120.0


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

    Only a plan in steps is the same on every machine.
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
    compiled: bool = False  # a quarter faster after about a minute, and needs a C++ compiler
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


def mixed(
    authored: Iterable[Sample], public: Iterable[Sample] | None, share: Iterator[float], seed: int
) -> Iterator[Sample]:
    """Samples of both; `share` says before each how often it is public."""
    choose = torch.Generator().manual_seed(seed)
    ours, theirs = iter(authored), iter(public) if public is not None else None
    for p in share:
        take = theirs is not None and torch.rand((), generator=choose).item() < p
        yield next(theirs) if take and theirs is not None else next(ours)


def public_share(progress: float) -> float:
    """Breadth first, then Foghorn's own voice."""
    return 0.15 if progress < 0.3 else 0.05 if progress < 0.6 else 0.0


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

    @property
    def progress(self) -> float:
        return self.plan.progress(self.step, self.seconds)

    def train(
        self,
        authored: Iterable[Sample],
        public: Iterable[Sample] | None,
        held_out: Sequence[Batch] = (),
        every: int = 150,
        until: float = 1.0,
        following: Following | None = None,
    ) -> None:
        """Train until that progress. `authored` and `public` deal for ever."""
        shares = (public_share(self.progress) for _ in itertools.count())
        samples = mixed(authored, public, shares, seed=self.plan.seed + self.step)
        encoder = Encoder(self.tokenizer)
        mark = following.mark if following is not None else _unmarked
        packed = batches(
            (encoder.encode(s)._replace(mark=mark(s)) for s in samples),
            rows=self.plan.rows,
            length=self.plan.length,
            pad=self._pad,
        )
        saved, running = time.monotonic(), 0.0
        with self._attention(), dropping(self.model, self.plan.dropout):
            while self.progress < until:
                began = time.monotonic()
                batch = next(packed)
                if following is not None:
                    following.take(batch)
                loss = self.update(batch)
                self.seconds += time.monotonic() - began
                running = loss if not running else 0.97 * running + 0.03 * loss
                if self.step % every == 0:
                    self._report(running, held_out)
                if time.monotonic() - saved > _SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
            self.save()
            self._report(running, held_out)

    def update(self, batch: Batch) -> float:
        """One step on one batch; its loss."""
        self.model.train()
        rate = self.plan.rate(self.progress)
        for optimizer, lr in zip(self.optimizers, self._rates, strict=True):
            optimizer.param_groups[0]["lr"] = lr * rate
        with self._arithmetic(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.plan.seed + self.step)  # what is dropped: a resumed run's, too
            loss = reply_loss(self.model, batch, self._decoder)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += int((batch.segment > 0).sum())
        return loss.item()

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
            state = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.seconds, self.tokens = state["at"]
            log.info("resumed at step %d", self.step)

    @contextmanager
    def _attention(self) -> Iterator[None]:
        """The quickest there is: fused by the compiler, plain attention takes half the time that
        the CPU's flash attention takes with a mask.
        """
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation("eager" if self.plan.compiled else before)
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)

    def _arithmetic(self) -> torch.autocast:
        """bfloat16 products on float32 weights, on CPUs that gain by it."""
        return torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16_units())

    @property
    def _pad(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def _report(self, loss: float, held_out: Sequence[Batch]) -> None:
        facts = {
            "step": self.step,
            "progress": round(self.progress, 4),
            "tokens": self.tokens,
            "tokens_per_second": round(self.tokens / max(self.seconds, 1e-9)),
            "loss": round(loss, 4),
            "held_out": round(held_out_loss(self.model, held_out), 4) if held_out else None,
        }
        log.info("%s", json.dumps(facts))
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.jsonl").open("a") as lines:
            lines.write(json.dumps(facts) + "\n")


def _unmarked(_sample: Sample) -> int:
    return 0
