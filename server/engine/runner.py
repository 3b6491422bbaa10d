"""A transformers model over slots: one forward pass of a Batch, and what is stored for a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dictionaries.dictionary import Dictionary

from ..errors import SteerdeckError
from .agreement import EIGHT, FLOAT32, HALF, ROUNDED, apart
from .attention import NAME, STEP, SlotStep, register
from .batch import Batch, Span
from .cache import SlotCache
from .gpu.graphs import Capture
from .gpu.parts import fuse
from .gpu.start import capturing, few_steps
from .int8 import quantize
from .linear import Rounding, halve, pack
from .pool import Pool
from .scoring import Scorer
from .sites import text_config, windowed_context
from .steering import Steerer
from .threads import fastest
from .written import write_out

if TYPE_CHECKING:
    from .compiled.swap import Compilation

_ONE, _TWO = range(3, 80, 7), range(1, 31, 5)  # two prompts, of 11 and 6 tokens
_MEASURED = 8  # rows of the step that decides on the number of threads


class Runner:
    """Owns the model's forward pass; used by the engine's thread only.

    threads: of a pass on the CPU; by default as many of torch's as make it fastest.
    compiled: where compiled layers are kept; none are made or used without. found: called from
    another thread when there are some to swap in.
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
        self.cache = SlotCache(rows, max(capacity, len(_ONE)))
        self._prove(weights, fused=bool(graphs))
        # Positions a reply may take: the proof's prompts are shorter than a window.
        self.context = min(capacity, windowed_context(text_config(model), STEP.get().windows))
        self.pool = Pool(self.cache, prefix_cache)
        self.steerer = Steerer(
            model,
            dictionaries,
            rows=rows,
            max_edits=max_edits,
            device=self.device,
            run=self._short_pass,
        )
        self.scorer = Scorer(model)
        self._graphs = capturing(
            graphs, self._logits, self._pass, self.steerer, self.cache, self.device
        )
        self.threads = threads or self._threads()
        self._compilation: Compilation | None = None
        if compiled is not None:
            from .compiled.swap import Compilation

            exact = model.dtype == torch.float32 and weights != "int8"
            self._compilation = Compilation(
                model, compiled, self._short_pass, exact=exact, found=found
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

    def _prove(self, weights: Rounding | None, *, fused: bool) -> None:
        """Run a prompt in chunks beside another and compare with the model's plain forward pass."""
        vocab = self.model.get_input_embeddings().weight.shape[0]
        one, two = [i % vocab for i in _ONE], [i % vocab for i in _TWO]
        with torch.no_grad():
            plain = [
                self.model(input_ids=torch.tensor([ids], device=self.device), use_cache=False)
                .logits[0, -1]
                .float()
                for ids in (one, two)
            ]
        name, dtype = type(self.model).__name__, self.model.dtype
        if not all(logits.isfinite().all() for logits in plain):
            raise SteerdeckError(
                f"the logits of {name} are not finite in {str(dtype).removeprefix('torch.')}, "
                "before anything is steered: give --dtype bfloat16 or float32, or download it again"
            )
        register()
        self.model.set_attn_implementation(NAME)
        if weights == "float16":
            halve(self.model)
        if weights != "int8":
            pack(self.model)
        try:
            own = self._slotted(one, two)
        except SteerdeckError:  # says what is wrong by itself
            raise
        except Exception as error:
            raise SteerdeckError(f"{name} does not run over the engine's slots: {error}") from error
        rounded = dtype != torch.float32
        gap = apart(plain, own, together=rounded)
        most = ROUNDED if rounded else HALF if weights == "float16" else FLOAT32
        if not gap <= most:
            raise SteerdeckError(
                f"{name} over the engine's slots differs from its own forward pass by {gap:.3g} "
                "times the spread of the logits: "
                + ("leave --dtype float16 out" if weights == "float16" else "it is not supported.")
            )
        if weights == "int8":
            self._prove_quantized(plain, one, two)
        write_out(self.model, self._short_pass)
        if fused and self.device.type == "cuda":
            fuse(self.model, lambda: few_steps(self._logits, self.cache.rows))
        for row in range(min(2, self.cache.rows)):
            self.cache.clear(row, len(one))

    def _prove_quantized(self, plain: list[Tensor], one: list[int], two: list[int]) -> None:
        """Put the linear layers in eight bits, and compare again."""
        quantize(self.model)
        name = type(self.model).__name__
        try:
            gap = apart(plain, self._slotted(one, two))
        except Exception as error:
            raise SteerdeckError(
                f"{name} does not run in eight bits ({error}): leave --dtype int8 out"
            ) from error
        if not gap <= EIGHT:
            raise SteerdeckError(
                f"in eight bits {name} differs from itself by {gap:.3g} times the spread of the "
                "logits: leave --dtype int8 out"
            )

    def _short_pass(self, tokens: int = len(_TWO)) -> None:
        """A prompt of some tokens in row 0, which is left as it was."""
        vocab = self.model.get_input_embeddings().weight.shape[0]
        ids = tuple(i % vocab for i in _ONE[:tokens])
        self._logits(Batch(0, [], [], [], (Span(0, 0, ids, (True,) * len(ids), True),)))
        self.cache.clear(0, len(ids))

    def _slotted(self, one: list[int], two: list[int]) -> list[Tensor]:
        """The last logits of both: one in row 0, in pieces; two in row 1 (0 if there is none)."""

        def span(row: int, ids: list[int], start: int, stop: int) -> Span:
            part = tuple(ids[start:stop])
            return Span(row, start, part, (True,) * len(part), stop == len(ids))

        other = min(1, self.cache.rows - 1)
        self._logits(Batch(0, [], [], [], (span(0, one, 0, 4),)))
        self._logits(Batch(0, [], [], [], (span(0, one, 4, 9),)))
        if other == 0:
            first = self._logits(Batch(0, [], [], [], (span(0, one, 9, 11),)))[0]
            return [first, self._logits(Batch(0, [], [], [], (span(0, two, 0, 6),)))[0]]
        self._logits(Batch(0, one[9:10], [9], [True], (span(1, two, 0, 5),)))
        return list(self._logits(Batch(0, [one[10], two[5]], [10, 5], [True, True], ())))
