"""Muon for the matrices of a small model.

torch.optim.Muon orthogonalises in bfloat16 always, which CPUs without bfloat16 units emulate some
sixty times slower; this one does so where there are such units, and takes matrices of one shape
together.
Method: https://kellerjordan.github.io/posts/muon/; update size of https://arxiv.org/abs/2502.16982.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .arithmetic import gains_by_bfloat16

_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(g: Tensor, steps: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    """[n, rows, cols]: each matrix with its singular values pushed to about 1 (Newton-Schulz)."""
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = (x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)).to(dtype)
    a, b, c = _QUINTIC
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    out: Tensor = x.mT if tall else x
    return out.to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; scaled so that AdamW's learning rates fit (RMS 0.2 an update)."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.1, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for shape, params in shapes.items():
                self._step_shape(shape, params, group)

    def _step_shape(self, shape: torch.Size, params: list[Tensor], group: dict[str, Any]) -> None:
        updates = []
        for p in params:
            assert p.grad is not None  # filtered by step
            held = self.state[p].setdefault("momentum", torch.zeros_like(p))
            held.lerp_(p.grad, 1 - group["momentum"])
            updates.append(p.grad.lerp(held, group["momentum"]))
        size = group["lr"] * 0.2 * max(shape) ** 0.5
        halves = gains_by_bfloat16(params[0].device)
        dtype = torch.bfloat16 if halves else torch.float32
        steps = orthogonalised(torch.stack(updates), dtype=dtype)
        for p, update in zip(params, steps, strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-size)
