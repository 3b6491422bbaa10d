"""A model over slots is held against its own forward pass, before anything is served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import SteerdeckError
from .agreement import EIGHT, FLOAT32, HALF, ROUNDED, apart
from .attention import NAME, register
from .batch import Batch, Span
from .cache import SlotCache
from .int8 import quantize
from .linear import Rounding, halve, pack

_ONE, _TWO = range(3, 80, 7), range(1, 31, 5)  # two prompts, of 11 and 6 tokens
PROVED = len(_ONE)  # positions that a proof fills of rows 0 and 1


class Slotted:
    """A model and its slots. logits: of a pass over them, [sampled, vocab]."""

    def __init__(self, model: Any, cache: SlotCache, logits: Callable[[Batch], Tensor]) -> None:
        self._model, self._cache, self._logits = model, cache, logits

    def prove(self, weights: Rounding | None) -> None:
        """Put the model over the slots and its weights as wanted; run a prompt in chunks beside
        another, and compare with the model's plain forward pass.

        Raises SteerdeckError where they differ; rows 0 and 1 are left to be cleared.
        """
        one, two = self._ids(_ONE), self._ids(_TWO)
        plain = self._plain(one, two)
        name, dtype = type(self._model).__name__, self._model.dtype
        register()
        self._model.set_attn_implementation(NAME)
        if weights == "float16":
            halve(self._model)
        if weights != "int8":
            pack(self._model)
        try:
            own = self._both(one, two)
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

    def _plain(self, *prompts: list[int]) -> list[Tensor]:
        """The last logits of each prompt, by the model's own forward pass."""
        device = self._model.device
        with torch.no_grad():
            whole = [
                self._model(input_ids=torch.tensor([ids], device=device), use_cache=False)
                for ids in prompts
            ]
        plain = [output.logits[0, -1].float() for output in whole]
        if not all(logits.isfinite().all() for logits in plain):
            dtype = str(self._model.dtype).removeprefix("torch.")
            raise SteerdeckError(
                f"the logits of {type(self._model).__name__} are not finite in {dtype}, before "
                "anything is steered: give --dtype bfloat16 or float32, or download it again"
            )
        return plain

    def _prove_quantized(self, plain: list[Tensor], one: list[int], two: list[int]) -> None:
        """Put the linear layers in eight bits, and compare again."""
        quantize(self._model)
        name = type(self._model).__name__
        try:
            gap = apart(plain, self._both(one, two))
        except Exception as error:
            raise SteerdeckError(
                f"{name} does not run in eight bits ({error}): leave --dtype int8 out"
            ) from error
        if not gap <= EIGHT:
            raise SteerdeckError(
                f"in eight bits {name} differs from itself by {gap:.3g} times the spread of the "
                "logits: leave --dtype int8 out"
            )

    def short_pass(self, tokens: int = len(_TWO)) -> None:
        """A prompt of some tokens in row 0, which is left as it was."""
        ids = tuple(self._ids(_ONE[:tokens]))
        self._logits(Batch(0, [], [], [], (Span(0, 0, ids, (True,) * len(ids), True),)))
        self._cache.clear(0, len(ids))

    def _ids(self, numbers: range) -> list[int]:
        vocab = self._model.get_input_embeddings().weight.shape[0]
        return [i % vocab for i in numbers]

    def _both(self, one: list[int], two: list[int]) -> list[Tensor]:
        """The last logits of both: one in row 0, in pieces; two in row 1 (0 if there is none)."""

        def span(row: int, ids: list[int], start: int, stop: int) -> Span:
            part = tuple(ids[start:stop])
            return Span(row, start, part, (True,) * len(part), stop == len(ids))

        other = min(1, self._cache.rows - 1)
        self._logits(Batch(0, [], [], [], (span(0, one, 0, 4),)))
        self._logits(Batch(0, [], [], [], (span(0, one, 4, 9),)))
        if other == 0:
            first = self._logits(Batch(0, [], [], [], (span(0, one, 9, 11),)))[0]
            return [first, self._logits(Batch(0, [], [], [], (span(0, two, 0, 6),)))[0]]
        self._logits(Batch(0, one[9:10], [9], [True], (span(1, two, 0, 5),)))
        return list(self._logits(Batch(0, [one[10], two[5]], [10, 5], [True, True], ())))
