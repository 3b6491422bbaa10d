"""How likely a prompt's own tokens were to the model, from the very pass that computes them.

That pass makes logits where a token is sampled and nowhere else, so nobody's bits depend on who is
scored beside. Those of scored positions are made after it, from what the decoder put out, by the
model's own forward with the decoder left out (caps and scales of logits are in there), and some
positions at a time: a chunk's over a vocabulary of 256k tokens would take a quarter of a gigabyte.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .batch import Batch, Span
from .sampling import Choice, with_logprobs
from .sites import text_config

_NUMBERS = 2**24  # logits made at a time: 64 MiB in float32


class Scorer:
    """Of the latest pass that it heard, `scores` are by row what the tokens that follow the
    positions of a span had, and the likeliest there; token -1 where that is not finite.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._decoder = model, model.base_model
        self._most = max(1, _NUMBERS // text_config(model).vocab_size)
        self.scores: dict[int, list[Choice]] = {}

    @contextmanager
    def hearing(self, batch: Batch) -> Iterator[None]:
        """What runs meanwhile is the pass over this batch."""
        self.scores = {}
        spans = zip(batch.spans, batch.offsets(), strict=False)  # the last offset is an end
        scored = [(span, offset) for span, offset in spans if span.following]
        if not scored:
            yield
            return
        if self._decoder is self._model:  # the name it gives its decoder is that of none
            raise TypeError(f"{type(self._model).__name__} has no decoder to score a prompt by")
        kept: list[Any] = []
        handle = self._decoder.register_forward_hook(lambda _m, _a, output: kept.append(output))
        try:
            yield
        finally:
            handle.remove()
        with _left_out(self._decoder, kept[0]), torch.no_grad():
            for span, offset in scored:
                self.scores[span.row] = list(self._score(span, offset))

    def _score(self, span: Span, offset: int) -> Iterator[Choice]:
        """offset: of the span's first token in the pass."""
        device = self._model.device
        nothing = torch.zeros(1, 1, dtype=torch.long, device=device)  # for the decoder, left out
        for start in range(0, len(span.following), self._most):
            tokens = list(span.following[start : start + self._most])
            first = offset + start
            keep = torch.arange(first, first + len(tokens), device=device)
            output = self._model(input_ids=nothing, use_cache=False, logits_to_keep=keep)
            for choice in with_logprobs(output.logits[0], tokens, [span.likely] * len(tokens)):
                assert choice.logprob is not None
                yield Choice(-1) if math.isnan(choice.logprob) else choice


@contextmanager
def _left_out(decoder: Any, output: Any) -> Iterator[None]:
    """Whoever calls the decoder meanwhile gets that output."""
    own = vars(decoder).get("forward")
    decoder.forward = lambda *_, **__: output
    try:
        yield
    finally:
        del decoder.forward
        if own is not None:
            decoder.forward = own
