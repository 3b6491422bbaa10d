"""Triton kernels for a decode step: what `plain.py` has, in one launch each. Sums are float32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..attention import SlotStep
from . import plain
from .attending import attend
from .products import joined
from .single import Kernel

__all__ = ["SINGLE", "attend", "gated", "joined", "rms_norm", "turned"]


@triton.jit
def _rms_norm(x, weight, out, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < WIDTH
    v = tl.load(x + row * WIDTH + at, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(v * v, 0) / WIDTH + eps)
    normed = (v * scale).to(out.dtype.element_ty).to(tl.float32)  # rounded here, as Llama does
    w = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + at, (normed * w).to(out.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.contiguous()
    out, width = torch.empty_like(x), x.shape[-1]
    block = triton.next_power_of_2(width)
    warps = min(16, max(1, block // 256))
    _rms_norm[(x.numel() // width,)](x, weight, out, eps, width, block, num_warps=warps)
    return out


@triton.jit
def _gated(both, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < WIDTH
    gate = tl.load(both + row * 2 * WIDTH + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + row * 2 * WIDTH + WIDTH + at, mask=inside, other=0.0).to(tl.float32)
    act = (gate / (1.0 + tl.exp(-gate))).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * WIDTH + at, (act * up).to(out.dtype.element_ty), mask=inside)


def gated(both: Tensor) -> Tensor:
    both = both.contiguous()
    width = both.shape[-1] // 2
    out = both.new_empty(*both.shape[:-1], width)
    block = min(1024, triton.next_power_of_2(width))
    _gated[(out.numel() // width, triton.cdiv(width, block))](both, out, width, block)
    return out


@triton.jit
def _turned(
    made,
    cos,
    sin,
    query,
    keys,
    values,
    positions,
    slot,  # numbers from one row's keys to the next row's
    head_slot,  # from one head's to the next one's
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    HALF: tl.constexpr = DIM // 2
    at = tl.arange(0, BLOCK)
    inside = at < HALF
    own = made + (row * (QUERIES + 2 * KEYS) + head) * DIM
    a = tl.load(own + at, mask=inside, other=0.0)
    b = tl.load(own + HALF + at, mask=inside, other=0.0)
    place = row * slot + tl.load(positions + row).to(tl.int64) * DIM
    if head < QUERIES + KEYS:
        c = tl.load(cos + row * DIM + at, mask=inside, other=0.0).to(tl.float32)
        s = tl.load(sin + row * DIM + at, mask=inside, other=0.0).to(tl.float32)
        x, y = a.to(tl.float32), b.to(tl.float32)
        first = (x * c - y * s).to(a.dtype)
        c = tl.load(cos + row * DIM + HALF + at, mask=inside, other=0.0).to(tl.float32)
        s = tl.load(sin + row * DIM + HALF + at, mask=inside, other=0.0).to(tl.float32)
        second = (y * c + x * s).to(a.dtype)
        if head < QUERIES:
            to = query + (row * QUERIES + head) * DIM
            tl.store(to + at, first, mask=inside)
            tl.store(to + HALF + at, second, mask=inside)
        else:
            to = keys + place + (head - QUERIES).to(tl.int64) * head_slot
            tl.store(to + at, first, mask=inside)
            tl.store(to + HALF + at, second, mask=inside)
    else:
        to = values + place + (head - QUERIES - KEYS).to(tl.int64) * head_slot
        tl.store(to + at, a, mask=inside)
        tl.store(to + HALF + at, b, mask=inside)


def turned(
    made: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, step: SlotStep
) -> Tensor:
    rows, heads, dim = made.shape
    kv_heads = keys.shape[1]
    if keys.stride() != values.stride() or keys.stride(2) != dim:
        return plain.turned(made, cos, sin, keys, values, step)
    keys, values = keys[step.batch.rows], values[step.batch.rows]
    queries = heads - 2 * kv_heads
    query = made.new_empty(rows, queries, dim)
    _turned[(rows, heads)](
        made.contiguous(),
        cos.contiguous(),
        sin.contiguous(),
        query,
        keys,
        values,
        step.positions,
        keys.stride(0),
        keys.stride(1),
        queries,
        kv_heads,
        dim,
        triton.next_power_of_2(dim // 2),
        num_warps=1,
    )
    return query


@triton.jit
def _single(
    x,
    weight,
    bias,
    out,
    count,
    width,
    BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out[i] = weight[i] . x + bias[i]"""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < count
    own = weight + row.to(tl.int64)[:, None] * width
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < width
        w = tl.load(
            own + at[None, :],
            mask=real[:, None] & inside[None, :],
            other=0.0,
            eviction_policy="evict_first",
        )
        v = tl.load(x + at, mask=inside, other=0.0)
        total += w.to(tl.float32) * v.to(tl.float32)[None, :]
    dot = tl.sum(total, 1)
    if BIAS:
        dot += tl.load(bias + row, mask=real, other=0.0).to(tl.float32)
    tl.store(out + row, dot.to(out.dtype.element_ty), mask=real)


def _product(rows: int, block: int, warps: int) -> Kernel:
    def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        count, width = weight.shape
        out = x.new_empty(*x.shape[:-1], count)
        own = weight if bias is None else bias
        biased = bias is not None
        grid = (triton.cdiv(count, rows),)
        _single[grid](
            x.contiguous(), weight, own, out, count, width, biased, rows, block, num_warps=warps
        )
        return out

    return product


# for one row: outputs of a program, weights of each read at a time, warps
SINGLE = [_product(*one) for one in ((1, 2048, 4), (2, 1024, 4), (4, 1024, 8), (8, 512, 8))]
