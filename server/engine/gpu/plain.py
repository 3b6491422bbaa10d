"""The small things between a layer's products, in torch's own operators.

`kernels.py` has the same in one Triton kernel each; where there is no Triton these serve.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention import SlotStep, attend_to
from .products import joined

__all__ = ["attend", "gated", "joined", "rms_norm", "turned"]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def gated(both: Tensor) -> Tensor:
    """silu of the first half of the last axis times the second."""
    gate, up = both.chunk(2, -1)
    return F.silu(gate) * up


def turned(
    made: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, step: SlotStep
) -> Tensor:
    """Queries [rows, heads, dim] of decoding rows' products [rows, heads of all, dim], rotated by
    cos and sin [rows, dim]; their keys, rotated, and values go into the slots [all rows, kv_heads,
    .., dim].
    """
    keys, values = keys[step.batch.rows], values[step.batch.rows]
    kv_heads, half = keys.shape[1], made.shape[-1] // 2
    both = made[:, : made.shape[1] - kv_heads]
    rotated = torch.cat((-both[..., half:], both[..., :half]), -1)
    both = both * cos[:, None] + rotated * sin[:, None]
    rows = torch.arange(len(made), device=made.device)
    keys[rows, :, step.positions] = both[:, -kv_heads:]
    values[rows, :, step.positions] = made[:, -kv_heads:]
    return both[:, :-kv_heads]


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    step: SlotStep,
    window: int | None,
    scale: float,
) -> Tensor:
    """[rows, heads, dim]: each decoding row's queries over its own slot, up to its position."""
    rows, heads, dim = query.shape
    keys, values = keys[step.batch.rows], values[step.batch.rows]
    q = query.reshape(rows, keys.shape[1], -1, dim)
    seen = slice(step.first_key(window), step.longest)
    mask = step.mask(window, query)
    out = attend_to(q, keys[:, :, seen], values[:, :, seen], mask, scale, None, None)
    return out.reshape(rows, heads, dim)
