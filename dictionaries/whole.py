"""Autoencoders whose activations single rows do not tell: what they compute, whole.

Steering reads a few rows against one threshold. A transcoder reads another place than it writes,
signed and grouped features depend on all the others, and a BatchTopK without its threshold even on
the other tokens. They are computed here exactly as their formats define them, for `encode`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .dictionary import BLOCK, STRIDED, Dictionary
from .edits import FeatureRows, Norm, frame, read, topk_cutoff
from .weights import Matrix, Rows, Weights

Activation = Callable[[Tensor], Tensor]  # all pre-activations z [n, d_sae] -> f [n, d_sae]


class Whole(Protocol):
    """How activations come about where single rows do not tell."""

    @property
    def joint(self) -> bool:
        """Whether the vectors of x depend on each other: one sequence, or one batch."""

    def __call__(self, dictionary: Dictionary, x: Tensor) -> tuple[Tensor, Tensor]:
        """(activations [n, d_sae], reconstruction [n, d_out]) of x [n, d_in]."""


@dataclass(frozen=True, slots=True)
class Dense:
    """f = activate(z) of every z at once, decoded with the dictionary's rows, plus x . skip.

    weights: as in the file; its encoder is as wide as what is read. norm: what is done to each x
    that is read. k: TopK, rectified. activate None: each feature for itself, as `Weights` says.
    """

    weights: Weights
    norm: Norm = Norm.NONE
    k: int | None = None
    activate: Activation | None = None
    skip: Matrix | None = None  # seen by what comes out: [d_out, d_in]
    joint: bool = False

    def __call__(self, dictionary: Dictionary, x: Tensor) -> tuple[Tensor, Tensor]:
        h = frame(x, self.norm).h
        if self.activate is not None:
            f = self.activate(self._all(h, _before))
        elif self.k is not None:
            cutoff = topk_cutoff(self._all(h, _before), self.k)
            f = self._all(h, lambda h, rows: read(h, rows, cutoff))
        else:
            f = self._all(h, read)
        recon = dictionary.decode(f, x)
        if self.skip is not None:
            recon += x.float() @ self.skip.block(0, self.skip.features).T
        return f, recon

    def _all(self, h: Tensor, made: Callable[[Tensor, FeatureRows], Tensor]) -> Tensor:
        """[n, d_sae], the encoder streamed in blocks."""
        out = torch.empty(len(h), self.weights.d_sae)
        assert self.weights.enc is not None
        for start, stop in blocks(self.weights.enc):
            out[:, start:stop] = made(h, self.weights.encoder(start, stop))
        return out


def _before(h: Tensor, rows: FeatureRows) -> Tensor:
    """Pre-activations."""
    return h @ rows.enc.T + rows.gate


def blocks(matrix: Rows) -> Iterator[tuple[int, int]]:
    """Neighbouring features, as many at a time as are read well together."""
    step = max(1, (BLOCK if matrix.contiguous else STRIDED) // (4 * matrix.width))
    for start in range(0, matrix.features, step):
        yield start, min(start + step, matrix.features)


def signed_topk(k: int) -> Activation:
    """The k largest z as they are, negative ones too (circuit-tracer)."""
    return lambda z: z * _winners(z, k)


def abs_topk(k: int) -> Activation:
    """The k largest |z| with their signs (SAELens' abstopk, sparsify's `signed`)."""
    return lambda z: z * _winners(z.abs(), k)


def group_max(k: int) -> Activation:
    """The largest of each of k contiguous groups, rectified (sparsify's groupmax)."""

    def activate(z: Tensor) -> Tensor:
        groups = z.relu().view(len(z), k, -1)
        return (groups * _winners(groups, 1)).view(z.shape)

    return activate


def batch_topk(k: int) -> Activation:
    """The k * n largest of all n tokens together, rectified."""

    def activate(z: Tensor) -> Tensor:
        f = z.relu()
        return (f.flatten() * _winners(f.flatten(), min(k * len(z), f.numel()))).view(z.shape)

    return activate


def _winners(z: Tensor, k: int) -> Tensor:
    """1 at the k largest of the last axis, else 0."""
    return torch.zeros_like(z).scatter(-1, z.topk(k, dim=-1).indices, 1.0)


@dataclass(frozen=True, slots=True)
class Pursuit:
    """Matching pursuit: again and again the direction that explains most of what is left.

    Ends for a token when less than `residual` is left, after `steps`, or (`settled`) when a step
    took a direction it had before. source: SAELens 6, `matching_pursuit`.
    """

    b_in: Tensor  # [d_in], subtracted from what is read
    norm: Norm
    residual: float
    steps: int
    settled: bool
    joint: bool = False

    def __call__(self, dictionary: Dictionary, x: Tensor) -> tuple[Tensor, Tensor]:
        directions = torch.cat([rows for _, rows in dictionary.directions()])
        left = frame(x, self.norm).h - self.b_in
        f = torch.zeros(len(x), len(directions))
        going = torch.ones(len(x), dtype=torch.bool)
        for _ in range(self.steps):
            if not going.any():
                break
            best, which = (left @ directions.T).relu().max(-1)
            best = best * going
            before = f != 0
            f.scatter_add_(1, which[:, None], best[:, None])
            left = left - best[:, None] * directions[which]
            if self.settled:
                going &= ((f != 0) != before).any(-1)
            going &= left.norm(dim=-1) >= self.residual
        return f, dictionary.decode(f, x)
