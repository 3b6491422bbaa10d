"""The maths of a steering edit. Pure functions on the residual stream: no model, no hook, no state.

An edit is four numbers on one feature's activation, and moves the residual along that feature's
decoder row by exactly the change it made:

    f' = min(max(scale * f + shift, floor), ceiling)        x' = x + sum_k (f'_k - f_k) * W_dec[k]

Every f_k is read from the unedited x, then all deltas are added at once. That equals
decode(edited f) + error of the full SAE, so the SAE's reconstruction error is never injected,
and only the rows of the edited features are touched: O(k * d_model) a token, whatever d_sae.

Axes:  rows = requests of the batch, tokens = tokens of this step, k = edited features.
Units: activations, as the SAE defines them. Multiples of a feature's maximum are resolved earlier.
Types: all arithmetic is float32 and is rounded once, to x's dtype, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor

INF = math.inf


class Edit(NamedTuple):
    """What happens to one activation: f' = min(max(scale * f + shift, floor), ceiling)."""

    scale: float
    shift: float
    floor: float
    ceiling: float


UNTOUCHED = Edit(1.0, 0.0, -INF, INF)


class Op(StrEnum):
    """The words a person uses for an edit."""

    ADD = "add"
    CLAMP = "clamp"
    SCALE = "scale"
    ABLATE = "ablate"
    AT_LEAST = "at_least"
    AT_MOST = "at_most"

    @property
    def reads(self) -> bool:
        """Whether the edit depends on the activation, and so needs the encoder row."""
        return self is not Op.ADD

    @property
    def has_unit(self) -> bool:
        """Whether its strength is an activation (a scale's is a plain factor, ablate has none)."""
        return self not in (Op.SCALE, Op.ABLATE)

    def edit(self, strength: float) -> Edit:
        """The four numbers, for a strength in activations (for `scale`: a factor)."""
        match self:
            case Op.ADD:
                return Edit(1.0, strength, -INF, INF)
            case Op.CLAMP:
                return Edit(0.0, strength, -INF, INF)
            case Op.SCALE:
                return Edit(strength, 0.0, -INF, INF)
            case Op.ABLATE:
                return Edit(0.0, 0.0, -INF, INF)
            case Op.AT_LEAST:
                return Edit(1.0, 0.0, strength, INF)
            case Op.AT_MOST:
                return Edit(1.0, 0.0, -INF, strength)


class Norm(StrEnum):
    """What an SAE does to its input, token by token, before encoding (SAELens' names)."""

    NONE = "none"
    LAYER_NORM = "layer_norm"
    CONSTANT = "constant_norm_rescale"


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Everything needed to read and write k features, with every constant of the SAE folded in.

    With a = h . enc (h is x after `norm`), the activation is

        f = relu(gain * a + offset)   where   a + gate > threshold,   else 0.

    ReLU and JumpReLU have gain 1 and offset = gate = b_enc - enc . b_dec (if centred), TopK takes
    its threshold token by token (`topk_cutoff`), and a gated SAE has gain exp(r_mag), offset b_mag,
    gate b_gate. All float32. With a leading axis of rows (enc [rows, k, d_in], the others
    [rows, 1, k], dec [rows, k, d_out]) the same functions steer every row its own way.
    """

    enc: Tensor  # [k, d_in]
    gain: Tensor  # [k]
    offset: Tensor  # [k]
    gate: Tensor  # [k]
    threshold: Tensor  # [k]
    dec: Tensor  # [k, d_out]

    def of(self, which: list[int] | slice) -> FeatureRows:
        """Those of the k features, in this order."""
        return self.map(lambda t: t[which])

    def map(self, change: Callable[[Tensor], Tensor]) -> FeatureRows:
        """Every one of its tensors changed in the same way."""
        return FeatureRows(*(change(getattr(self, field.name)) for field in fields(self)))

    @staticmethod
    def joined(parts: Sequence[FeatureRows]) -> FeatureRows:
        """The features of all parts, in order."""
        names = [field.name for field in fields(FeatureRows)]
        return FeatureRows(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


class Frame(NamedTuple):
    """x as the encoder sees it, and the factor that brings a delta back to x's own scale."""

    h: Tensor  # [.., d_in] float32
    back: Tensor | None  # [.., 1] float32, None for 1


def frame(x: Tensor, norm: Norm) -> Frame:
    """Apply the SAE's per-token input normalisation (sample std, eps 1e-5 added to it: SAELens)."""
    x = x.float()
    if norm is Norm.NONE:
        return Frame(x, None)
    if norm is Norm.LAYER_NORM:
        centred = x - x.mean(-1, keepdim=True)
        std = centred.std(-1, keepdim=True)
        return Frame(centred / (std + 1e-5), std)
    length = x.norm(dim=-1, keepdim=True) / math.sqrt(x.shape[-1])
    return Frame(x / length.clamp_min(torch.finfo(x.dtype).tiny), length)


def read(h: Tensor, rows: FeatureRows, cutoff: Tensor | None = None) -> Tensor:
    """Activations [.., tokens, k] of the chosen features, exactly as the full SAE has them.

    h: [.., tokens, d_in] from `frame`. cutoff: [.., tokens, 1], the threshold of each token for
    SAEs that have no fixed one (TopK); it replaces `rows.threshold`.
    """
    a = h @ rows.enc.mT
    fires = a + rows.gate > (rows.threshold if cutoff is None else cutoff)
    return torch.where(fires, torch.relu(rows.gain * a + rows.offset), 0.0)


def topk_cutoff(z: Tensor, k: int) -> Tensor:
    """A threshold [.., 1] that exactly the k largest of z [.., d_sae] exceed (ties lose).

    It lies halfway between the last winner and the first loser, so that a row read alone, whose
    dot product may round differently from the full encode's, still falls on its own side.
    """
    if k >= z.shape[-1]:
        return torch.full_like(z[..., :1], -INF)
    return z.topk(k + 1, dim=-1).values[..., -2:].mean(-1, keepdim=True)


@dataclass(frozen=True, slots=True)
class EditTable:
    """The four numbers of k edits as tensors [k], or [rows, 1, k] beside batched FeatureRows."""

    scale: Tensor
    shift: Tensor
    floor: Tensor
    ceiling: Tensor

    @classmethod
    def of(cls, edits: list[Edit]) -> EditTable:
        table = torch.tensor(edits, dtype=torch.float32).reshape(-1, 4)
        return cls(*(column.contiguous() for column in table.unbind(-1)))


def edited(f: Tensor, table: EditTable) -> Tensor:
    """f' = min(max(scale * f + shift, floor), ceiling), elementwise."""
    return torch.minimum(torch.maximum(table.scale * f + table.shift, table.floor), table.ceiling)


def faded(before: Tensor, after: Tensor, weight: Tensor) -> Tensor:
    """`after` with only this part of its change made. Weight 1 keeps every bit of it."""
    return torch.where(weight == 1.0, after, before + weight * (after - before))


def delta(before: Tensor, after: Tensor, rows: FeatureRows, back: Tensor | None) -> Tensor:
    """What the edits add to x: sum_k (f'_k - f_k) * W_dec[k], in x's own scale. float32."""
    moved = (after - before) @ rows.dec
    return moved if back is None else moved * back


def shifted(x: Tensor, moved: Tensor, keep_norm: Tensor | None = None) -> Tensor:
    """x + moved, rounded once to x's dtype; rows whose `keep_norm` is true keep the length of x.

    A row whose `moved` is zero comes back bit-identical (up to the sign of a zero).
    keep_norm: bool, broadcastable to [.., 1].
    """
    return settled(x, x.float() + moved, keep_norm)


def settled(x: Tensor, y: Tensor, keep_norm: Tensor | None = None) -> Tensor:
    """`shifted`, where y [.., d] is what x was moved to, in float32."""
    if keep_norm is not None:
        ratio = x.float().norm(dim=-1, keepdim=True) / y.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        y = torch.where(keep_norm, y * ratio, y)
    return y.to(x.dtype)


def steer(
    x: Tensor,
    rows: FeatureRows,
    table: EditTable,
    *,
    norm: Norm = Norm.NONE,
    cutoff: Tensor | None = None,
    active: Tensor | None = None,
    keep_norm: Tensor | None = None,
) -> Tensor:
    """All of the above in one call: x [.., tokens, d_model] with its features edited.

    active: bool, broadcastable to [.., tokens, k]; an edit acts only where it is true.
    """
    h, back = frame(x, norm)
    before = read(h, rows, cutoff)
    after = edited(before, table)
    if active is not None:
        after = torch.where(active, after, before)
    return shifted(x, delta(before, after, rows, back), keep_norm)
