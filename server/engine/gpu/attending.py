"""Attention of decoding rows over their slots, as Triton kernels.

A row's keys are taken in pieces of a fixed size and joined in order, so what a row gets does not
depend on its neighbours' lengths, nor on how far a captured pass looks. Sums are float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..attention import SlotStep
from . import plain

_PIECE = 128  # keys of a slot that one program looks at
_BLOCK = 64  # at a time
_QUERIES = 16  # rows of the smallest matrix that tensor cores multiply
_DIMS = 64, 128, 256


@triton.jit
def _piece(
    query,
    keys,
    values,
    positions,
    sums,
    tops,
    weights,
    scale,
    slot,
    head_slot,
    pieces,
    WINDOW: tl.constexpr,  # 0 for none
    GROUPS: tl.constexpr,
    QUERIES: tl.constexpr,
    DIM: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of one row, one key head and one piece of its keys: the weighted sum of values, the weights'
    sum, and the greatest score, by which they are scaled.
    """
    row, head, piece = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    last = tl.load(positions + row).to(tl.int32)
    first = 0
    if WINDOW > 0:
        first = tl.maximum(last - WINDOW + 1, 0)
    begin = piece * PIECE
    if begin <= last and begin + PIECE > first:
        group, d = tl.arange(0, QUERIES), tl.arange(0, DIM)
        mine = (row * tl.num_programs(1) + head) * GROUPS + group
        real = group < GROUPS
        q = tl.load(query + mine[:, None] * DIM + d[None, :], mask=real[:, None], other=0.0)
        own = row * slot + head.to(tl.int64) * head_slot
        top = tl.full([QUERIES], float("-inf"), tl.float32)
        weight = tl.zeros([QUERIES], tl.float32)
        total = tl.zeros([QUERIES, DIM], tl.float32)
        for start in range(0, PIECE, BLOCK):
            at = begin + start + tl.arange(0, BLOCK)
            seen = (at <= last) & (at >= first)
            where = own + at[:, None] * DIM + d[None, :]
            k = tl.load(keys + where, mask=seen[:, None], other=0.0)
            v = tl.load(values + where, mask=seen[:, None], other=0.0)
            scores = tl.dot(q, tl.trans(k)) * scale
            scores = tl.where(seen[None, :], scores, float("-inf"))
            higher = tl.maximum(top, tl.max(scores, 1))
            base = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen yet
            p = tl.exp(scores - base[:, None])
            shrunk = tl.exp(top - base)
            weight = weight * shrunk + tl.sum(p, 1)
            total = total * shrunk[:, None] + tl.dot(p.to(v.dtype), v)
            top = higher
        to = mine * pieces + piece
        tl.store(tops + to, top, mask=real)
        tl.store(weights + to, weight, mask=real)
        tl.store(sums + to[:, None] * DIM + d[None, :], total, mask=real[:, None])


@triton.jit
def _whole(
    sums,
    tops,
    weights,
    positions,
    out,
    pieces,
    WINDOW: tl.constexpr,
    DIM: tl.constexpr,
    PIECE: tl.constexpr,
):
    """Of one row and one head: its pieces, joined."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    last = tl.load(positions + row).to(tl.int32)
    first = 0
    if WINDOW > 0:
        first = tl.maximum(last - WINDOW + 1, 0)
    d = tl.arange(0, DIM)
    mine = row * tl.num_programs(1) + head
    at = mine * pieces + first // PIECE
    top = tl.load(tops + at)
    weight = tl.load(weights + at)
    total = tl.load(sums + at * DIM + d)
    for piece in range(first // PIECE + 1, last // PIECE + 1):
        at = mine * pieces + piece
        own = tl.load(tops + at)
        higher = tl.maximum(top, own)
        shrunk, joins = tl.exp(top - higher), tl.exp(own - higher)
        weight = weight * shrunk + tl.load(weights + at) * joins
        total = total * shrunk + tl.load(sums + at * DIM + d) * joins
        top = higher
    tl.store(out + mine * DIM + d, (total / weight).to(out.dtype.element_ty))


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    step: SlotStep,
    window: int | None,
    scale: float,
) -> Tensor:
    """In sixteen bits, and for heads of 64, 128 or 256; elsewhere torch's own attention."""
    rows, heads, dim = query.shape
    fits = query.dtype in (torch.bfloat16, torch.float16) and dim in _DIMS
    alike = keys.stride() == values.stride() and keys.stride(2) == dim
    if not (fits and alike):
        return plain.attend(query, keys, values, step, window, scale)
    keys, values = keys[step.batch.rows], values[step.batch.rows]
    query, kv_heads = query.contiguous(), keys.shape[1]
    groups = heads // kv_heads
    pieces = triton.cdiv(step.longest, _PIECE)
    sums = torch.empty(rows, heads, pieces, dim, dtype=torch.float32, device=query.device)
    tops, weights = (torch.empty_like(sums[..., 0]) for _ in range(2))
    _piece[(rows, kv_heads, pieces)](
        query,
        keys,
        values,
        step.positions,
        sums,
        tops,
        weights,
        scale,
        keys.stride(0),
        keys.stride(1),
        pieces,
        window or 0,
        groups,
        max(_QUERIES, triton.next_power_of_2(groups)),
        dim,
        _PIECE,
        _BLOCK,
    )
    out = torch.empty_like(query)
    _whole[(rows, heads)](
        sums, tops, weights, step.positions, out, pieces, window or 0, dim, _PIECE, num_warps=1
    )
    return out
