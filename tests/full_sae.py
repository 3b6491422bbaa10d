"""A whole SAE written the long way, straight from its paper: the oracle of the steering maths."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dictionaries.edits import (
    Edit,
    EditTable,
    FeatureRows,
    Norm,
    frame,
    steer,
    topk_cutoff,
)

D, SAE, TOKENS = 24, 64, 10


@dataclass
class FullSae:
    """A whole SAE written the long way, straight from its paper: the oracle of these tests."""

    architecture: str
    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    threshold: Tensor
    r_mag: Tensor
    b_mag: Tensor
    k: int = 12
    norm: Norm = Norm.NONE

    def normed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.norm is Norm.LAYER_NORM:
            mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
            return (x - mean) / (std + 1e-5), std, mean
        if self.norm is Norm.CONSTANT:
            factor = math.sqrt(D) / x.norm(dim=-1, keepdim=True)
            return x * factor, 1 / factor, torch.zeros(1)
        return x, torch.ones(1), torch.zeros(1)

    def encode(self, x: Tensor) -> Tensor:
        h, _, _ = self.normed(x.float())
        a = (h - self.b_dec) @ self.W_enc
        z = a + self.b_enc
        match self.architecture:
            case "standard":
                return z.relu()
            case "jumprelu":
                return z.relu() * (z > self.threshold)
            case "batchtopk":  # at inference: one threshold for every feature
                return z.relu() * (z > self.threshold[0])
            case "gated":
                return (z > 0) * (a * self.r_mag.exp() + self.b_mag).relu()
            case _:
                kept = z.topk(self.k, dim=-1)
                return torch.zeros_like(z).scatter(-1, kept.indices, kept.values.relu())

    def decode(self, f: Tensor, x: Tensor) -> Tensor:
        _, scale, mean = self.normed(x.float())
        return (f @ self.W_dec + self.b_dec) * scale + mean

    def rows(self, ids: list[int]) -> FeatureRows:
        enc, centre = self.W_enc.T[ids], self.W_enc.T[ids] @ self.b_dec
        one = torch.ones(len(ids))
        gate = self.b_enc[ids] - centre
        if self.architecture == "gated":
            gain = self.r_mag[ids].exp()
            offset = self.b_mag[ids] - gain * centre
            return FeatureRows(enc, gain, offset, gate, 0 * one, self.W_dec[ids])
        threshold = {"jumprelu": self.threshold[ids], "batchtopk": self.threshold[0] * one}
        theta = threshold.get(self.architecture, 0 * one)
        return FeatureRows(enc, one, gate, gate, theta, self.W_dec[ids])

    def cutoff(self, x: Tensor) -> Tensor | None:
        if self.architecture != "topk":
            return None
        h, _ = frame(x, self.norm)
        return topk_cutoff((h - self.b_dec) @ self.W_enc + self.b_enc, self.k)

    def steer(self, x: Tensor, ids: list[int], edits: list[Edit], **options: Tensor) -> Tensor:
        table = EditTable.of(edits)
        cutoff = self.cutoff(x)
        return steer(x, self.rows(ids), table, norm=self.norm, cutoff=cutoff, **options)


def make(architecture: str, norm: Norm = Norm.NONE) -> FullSae:
    g = torch.Generator().manual_seed(7)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=g) * scale

    return FullSae(
        architecture,
        normal(D, SAE, scale=D**-0.5),
        normal(SAE, D, scale=D**-0.5),
        normal(SAE, scale=0.1),
        normal(D, scale=0.3),
        torch.rand(SAE, generator=g) * 0.5 + 0.05,
        normal(SAE, scale=0.2),
        normal(SAE, scale=0.8),  # wide: a gate that fires on a negative magnitude must give 0
        norm=norm,
    )
