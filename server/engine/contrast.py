"""How sure the model is of the next token, and how it differs from the unsteered one about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


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
    steered = torch.stack([pair.steered for pair in pairs]).float().log_softmax(-1)
    unsteered = torch.stack([pair.unsteered for pair in pairs]).float().log_softmax(-1)
    p = steered.exp()
    # What the steered model never says adds nothing, be the other one's -inf as well.
    terms = torch.where(p > 0, p * (steered - unsteered), 0.0)
    kl = terms.sum(-1).clamp(min=0).tolist()
    came = torch.tensor([[pair.token] for pair in pairs], device=p.device)
    own, other = steered.gather(-1, came)[:, 0].tolist(), unsteered.gather(-1, came)[:, 0].tolist()
    tops = zip(_likeliest(steered, pairs), _likeliest(unsteered, pairs), strict=True)
    return [Difference(*one) for one in zip(kl, own, other, *zip(*tops, strict=True), strict=True)]


def entropies(logits: Tensor) -> list[float]:
    """Of the distributions of logits [rows, vocab], in nats."""
    logprobs = logits.float().log_softmax(-1)
    p = logprobs.exp()
    found: list[float] = (-torch.where(p > 0, p * logprobs, 0.0).sum(-1)).tolist()
    return found


def _likeliest(logprobs: Tensor, pairs: Sequence[Pair]) -> list[tuple[tuple[int, float], ...]]:
    most = min(max(pair.top for pair in pairs), logprobs.shape[-1])
    if most == 0:
        return [()] * len(pairs)
    values, ids = logprobs.topk(most)
    return [
        tuple(zip(own[: pair.top], logprob[: pair.top], strict=True))
        for own, logprob, pair in zip(ids.tolist(), values.tolist(), pairs, strict=True)
    ]
