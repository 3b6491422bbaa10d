"""How far two passes' logits may be apart, and how far they are."""

from __future__ import annotations

import torch
from torch import Tensor

# How far any logit may differ, as a part of their spread; of a model that is itself in sixteen bits
# all of them together, for a few of many thousands are always far off.
FLOAT32, HALF, EIGHT, ROUNDED = 0.02, 0.2, 1.0, 0.15


def apart(expected: list[Tensor], got: list[Tensor], *, together: bool = False) -> float:
    """How far two passes' logits differ, as a part of their spread: the largest difference, or all
    `together`, by the root of their mean square. nan where one is not finite.
    """
    found = []
    for a, b in zip(expected, got, strict=True):
        gaps = (a - b.float()).abs()
        gap = gaps.square().mean().sqrt() if together else gaps.max()
        found.append(gap / a.std().clamp_min(1.0))
    return torch.stack(found).max().item()
