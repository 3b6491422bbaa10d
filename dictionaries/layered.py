"""Crosscoders and cross-layer transcoders: every layer has its features, which write to several.

Layer i's encoder reads layer i alone; what it finds is added to the reconstruction of each layer
that its decoder names. They can be looked at and computed, but not steered with: an edit is made
at one place, and their features are at several.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .edits import read
from .info import Info
from .weights import Matrix, Weights
from .whole import blocks


class Part(NamedTuple):
    """One layer: weights.dec is [d_sae, layers written * d_out], weights.b_dec the layer's own."""

    weights: Weights
    writes: range  # positions in Info.layers
    skip: Matrix | None  # from its input to its output, seen by what comes out: [d_out, d_in]


class Layered:
    """Has what `encode` and `inspect` want of a Dictionary; x is [n, layers, d_in]."""

    joint = False

    def __init__(self, info: Info, path: Path, parts: Sequence[Part]) -> None:
        self.info = info
        self.path = path
        self._parts = parts

    def coded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(activations [n, layers, d_sae], reconstructions [n, layers, d_out])."""
        n, layers, _ = x.shape
        f = torch.empty(n, layers, self.info.d_sae)
        recon = torch.stack([part.weights.b_dec for part in self._parts]).repeat(n, 1, 1)
        for i, part in enumerate(self._parts):
            h = x[:, i].float()
            for start, stop in blocks(part.weights.dec):
                found = read(h, part.weights.encoder(start, stop))
                f[:, i, start:stop] = found
                moved = found @ part.weights.dec.block(start, stop)
                recon[:, part.writes.start : part.writes.stop] += moved.view(
                    n, len(part.writes), -1
                )
            if part.skip is not None:
                recon[:, i] += h @ part.skip.block(0, part.skip.features).T
        return f, recon
