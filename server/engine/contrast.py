"""How the steered model differs from the unsteered one about the next token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .vocabulary import divergences, likeliest, logprobs


class Pair(NamedTuple):
    """Logits [vocab] of both after the same tokens, the token that came, and how many of the
    likeliest are wanted.
    """

    steered: Tensor
    unsteered: Tensor
    token: int
    top: int


class Difference(NamedTuple):
    """In nats; `types.Contrast` says what each is. The likeliest as (token, log probability)."""

    kl: float
    logprob: float
    unsteered_logprob: float
    top: tuple[tuple[int, float], ...]
    unsteered_top: tuple[tuple[int, float], ...]


def differences(pairs: Sequence[Pair]) -> list[Difference]:
    """Of every pair; a pair of the same logits differs by exactly 0."""
    if not pairs:
        return []
    steered, unsteered = [pair.steered for pair in pairs], [pair.unsteered for pair in pairs]
    most = max(pair.top for pair in pairs)
    own, other = likeliest(steered, most), likeliest(unsteered, most)
    kls = divergences(steered, unsteered, own.totals, other.totals)
    tokens, wanted = [pair.token for pair in pairs], [pair.top for pair in pairs]
    before = logprobs(unsteered, tokens, wanted, other)
    after = logprobs(steered, tokens, wanted, own)
    return [
        Difference(kl, one.logprob, two.logprob, one.top, two.top)
        for kl, one, two in zip(kls, after, before, strict=True)
    ]
