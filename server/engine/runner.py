"""A transformers model over slots: one forward pass of a Batch, and what is stored for a row."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dictionaries.dictionary import Dictionary

from .attention import STEP, SlotStep
from .batch import Batch
from .cache import SlotCache
from .fused import fuse
from .gpu.graphs import Capture
from .gpu.start import capturing, few_steps
from .linear import Rounding
from .pool import Pool
from .scoring import Scorer
from .sites import text_config, windowed_context
from .slotted import PROVED, Slotted
from .stacked import stack, whole
from .steering import Steerer
from .threads import fastest
from .written import write_out

if TYPE_CHECKING:
    from .compiled.swap import Compilation

log = logging.getLogger("steerdeck.engine")

_MEASURED = 8  # rows of the step that decides on the number of threads


class Runner:
    """Owns the model's forward pass; used by the engine's thread only.

    threads: of a pass on the CPU; by default as many of torch's as make it fastest.
    compiled: where compiled layers are kept; none are made or used without, nor where our own code
    runs the layers whole. found: called from another thread when there are some to swap in.
    weights: in which linear layers are to hold theirs; the model is float32 on a CPU.
    graphs: whether decode steps are captured and layers fused on a GPU, or by what, anywhere.
    Raises SteerdeckError if the model, run over slots, does not give the model's own logits, and
    Unsteerable for a dictionary that does not fit it.
    """

    def __init__(
        self,
        model: Any,
        dictionaries: Mapping[str, Dictionary],
        *,
        rows: int,
        capacity: int,
        max_edits: int,
        threads: int | None = None,
        prefix_cache: int = 0,
        compiled: Path | None = None,
        found: Callable[[], object] = lambda: None,
        weights: Rounding | None = None,
        graphs: bool | Capture = True,
    ) -> None:
        self.model = model.eval()
        self.device: torch.device = model.device
        # Attention ignores it, and a mask of four axes spares transformers making one.
        self._mask = torch.zeros(1, 1, 1, 1, device=self.device)
        self.cache = SlotCache(rows, max(capacity, PROVED))
        self.slotted = Slotted(model, self.cache, self._logits)
        self._prepare(weights, fused=bool(graphs))
        # Positions a reply may take: the proof's prompts are shorter than a window.
        self.context = min(capacity, windowed_context(text_config(model), STEP.get().windows))
        self.pool = Pool(self.cache, prefix_cache)
        self.steerer = Steerer(
            model,
            dictionaries,
            rows=rows,
            max_edits=max_edits,
            device=self.device,
            run=self.slotted.short_pass,
        )
        self.scorer = Scorer(model)
        self._graphs = capturing(
            graphs, self._logits, self._pass, self.steerer, self.cache, self.device
        )
        self.threads = threads or self._threads()
        self._compilation: Compilation | None = None
        if compiled is not None and whole(model):
            log.info("nothing is compiled: our own code runs these layers whole, which is faster")
        elif compiled is not None:
            from .compiled.swap import Compilation

            exact = model.dtype == torch.float32 and weights != "int8"
            self._compilation = Compilation(
                model, compiled, self.slotted.short_pass, exact=exact, found=found
            )

    @property
    def compilation(self) -> str:
        """Whether layers run compiled: off, running (not yet), on or failed."""
        return "off" if self._compilation is None else self._compilation.state

    @property
    def arithmetic(self) -> str:
        """Of the latest pass: eager or compiled, which round differently."""
        return "compiled" if self.compilation == "on" else "eager"

    def close(self) -> None:
        if self._compilation is not None:
            self._compilation.close()
        if self._graphs is not None:
            self._graphs.close()

    def enter(self) -> None:
        """To be called by the thread that will run the passes, before the first."""
        torch.set_num_threads(self.threads)

    def swap(self) -> None:
        """Between two passes: put compiled layers in, if there are any new ones."""
        if self._compilation is not None:
            self._compilation.swap()

    def forward(self, batch: Batch) -> Tensor:
        """Logits [sampled, vocab]: of the decoding rows, then of the spans that end a prompt.

        On a GPU the next pass may fill them anew: who keeps some keeps a copy.
        """
        self.swap()
        with self.scorer.hearing(batch):
            captured = self._graphs.logits(batch) if self._graphs is not None else None
            if captured is not None:
                return captured
            self.steerer.begin(batch)
            return self._logits(batch)

    def _logits(self, batch: Batch) -> Tensor:
        tokens, positions = list(batch.tokens), list(batch.positions)
        for span in batch.spans:
            tokens += span.tokens
            positions += range(span.start, span.stop)
        sampled = batch.sampled()
        everything = len(sampled) == len(tokens)
        keep = 0 if everything else torch.tensor(sampled or [0], device=self.device)
        step = SlotStep(self.cache, batch, self.device)
        ids, at = (torch.tensor([one], device=self.device) for one in (tokens, positions))
        return self._pass(step, ids, at, keep)[: len(sampled)]

    def _pass(
        self, step: SlotStep, ids: Tensor, positions: Tensor, keep: Tensor | int = 0
    ) -> Tensor:
        """Logits [kept, vocab] of tokens at positions [1, tokens]; 0 keeps all of them."""
        STEP.set(step)
        with torch.no_grad():
            output = self.model(
                input_ids=ids,
                position_ids=positions,
                attention_mask=self._mask,
                use_cache=False,
                logits_to_keep=keep,
            )
        logits: Tensor = output.logits[0]
        return logits

    def move(self, source: int, target: int, length: int) -> None:
        """A reply of `length` computed positions changes rows; its old row is for someone else."""
        self.cache.move(source, target, length)
        self.steerer.move(source, target)

    def _prepare(self, weights: Rounding | None, *, fused: bool) -> None:
        """Put the model over the slots, its weights as wanted, and its layers in quicker forms."""
        self.slotted.prove(weights)
        write_out(self.model, self.slotted.short_pass)
        if fused or self.device.type == "cpu":
            step = partial(few_steps, self._logits, self.cache.rows)
            fuse(self.model, step)
            if self.device.type == "cpu":
                stack(self.model, step)
        for row in range(min(2, self.cache.rows)):
            self.cache.clear(row, PROVED)

    def _threads(self) -> int:
        most = torch.get_num_threads()
        if self.device.type != "cpu":
            return most
        rows = min(_MEASURED, self.cache.rows)
        batch = Batch(0, [0] * rows, [0] * rows, [True] * rows, ())
        chosen = fastest(lambda: self._logits(batch), most)
        for row in range(rows):
            self.cache.clear(row, 1)
        return chosen
