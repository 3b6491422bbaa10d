"""Anchored features that died in training, woken: an encoder row read off their concept's text.

A decoder row that is kept as it is (`train_sae`'s anchors) may die: other features rebuild what it
stands for, and nothing pulls at an encoder row that never fires. It still steers; but what never
fires has no maximum to count a strength in, and no card.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .sae import Sae

DENSITY = 0.002  # of usual text, on which a woken feature fires: about what living anchors do
ASLEEP = 1e-4  # of usual text, on which a feature that needs waking fires at most
_BLOCK = 4096  # tokens at a time
_RIDGE = 0.05  # of the mean variance: less would follow what a few thousand tokens have by chance


@torch.inference_mode()
def asleep(sae: Sae, usual: Tensor, anchors: int) -> list[int]:
    """Which of the first `anchors` features fire on next to none of `usual` [tokens, d_in]."""
    fires = torch.zeros(anchors, device=usual.device)
    for start in range(0, len(usual), _BLOCK):
        fires += (sae.encode(usual[start : start + _BLOCK])[:, :anchors] > 0).sum(0)
    return [i for i, n in enumerate(fires.tolist()) if n <= ASLEEP * len(usual)]


@torch.no_grad()
def wake(sae: Sae, usual: Tensor, texts: Mapping[int, Tensor]) -> None:
    """Give each feature the linear discriminant of its text against usual text as its encoder.

    usual: [tokens, d_in]. texts: by feature, [tokens, d_in] of text about what it stands for. It
    then fires, at its own threshold, on the `DENSITY` of usual tokens that look most like that
    text. Its decoder row stays, and so does every other feature. One without text sleeps on.
    """
    mean = usual.mean(0)
    spread = torch.zeros(len(mean), len(mean), device=usual.device)
    for start in range(0, len(usual), _BLOCK):
        away = usual[start : start + _BLOCK] - mean
        spread += away.T @ away / len(usual)
    spread += _RIDGE * spread.diagonal().mean() * torch.eye(len(mean), device=usual.device)
    for feature, text in texts.items():
        if not len(text):
            continue
        row = torch.linalg.solve(spread, text.mean(0) - mean)
        cut = (usual @ row - mean @ row).quantile(1 - DENSITY)
        threshold = sae.threshold[feature]
        least = torch.where(threshold > 0, threshold, 1.0)  # what it reads where it begins to fire
        row *= least / cut.clamp_min(1e-9)
        sae.W_enc[:, feature] = row
        sae.b_enc[feature] = (sae.b_dec - mean) @ row + threshold - least
