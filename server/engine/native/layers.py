"""The small things between a layer's products, by `layers.cpp`: see `gpu/plain.py` for each.

They are for float32 on a CPU, and for prompts as for rows that decode. `able` says whether there is
such code here at all; of other numbers than it knows a TypeError is raised, and such attention is
left to torch.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..joined import joined
from .build import FLOAT, INT, POINTER, SIZE, able, function

if TYPE_CHECKING:
    from ..attention import SlotStep

__all__ = [
    "GEMMA",
    "SPANS",
    "Slots",
    "Weighing",
    "able",
    "attend",
    "attended",
    "check",
    "gated",
    "joined",
    "rms_norm",
    "slots_of",
    "tokens_of",
    "turned",
]

SPANS = True  # chunks of prompts too
GEMMA = True  # its gates, and attention that caps scores

_LANES = 8  # a head is of so many numbers, or twice, ...
_RMS_NORM = POINTER, POINTER, POINTER, SIZE, SIZE, FLOAT
_GATED = POINTER, POINTER, SIZE, SIZE, INT
_TURNED = POINTER, POINTER, POINTER, POINTER, POINTER, POINTER, SIZE
_ATTEND = POINTER, POINTER, POINTER, POINTER, POINTER, INT


class Slots(ctypes.Structure):
    _fields_ = (
        ("keys", POINTER),
        ("values", POINTER),
        *((name, SIZE) for name in ("row", "head", "kv_heads", "dim")),
    )


class _Tokens(ctypes.Structure):
    _fields_ = (("rows", POINTER), ("positions", POINTER), ("count", SIZE))


class _Queries(ctypes.Structure):
    _fields_ = (("at", POINTER), *((name, SIZE) for name in ("row", "head", "groups")))


class Weighing(ctypes.Structure):
    """What becomes of dot products; what it points to it keeps. sinks: of each head, or none."""

    _fields_ = (("window", SIZE), ("scale", FLOAT), ("cap", FLOAT), ("sinks", POINTER))

    @classmethod
    def of(
        cls, window: int | None, scale: float, softcap: float | None, sinks: Tensor | None
    ) -> Weighing:
        if sinks is not None:
            check(sinks)
            sinks = sinks.contiguous()
        at = None if sinks is None else sinks.data_ptr()
        made = cls(window or 0, scale, softcap or 0.0, at)
        made.kept = sinks
        return made


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    check(x, weight)
    x = x.contiguous()
    y = torch.empty_like(x)
    width = x.shape[-1]
    rows = x.numel() // width
    function("rms_norm", _RMS_NORM)(x.data_ptr(), weight.data_ptr(), y.data_ptr(), rows, width, eps)
    return y


def gated(both: Tensor, *, gelu: bool = False) -> Tensor:
    """silu of the first half of the last axis times the second; or GELU, as tanh has it."""
    check(both)
    both, width = both.contiguous(), both.shape[-1] // 2
    y = both.new_empty(*both.shape[:-1], width)
    function("gated", _GATED)(both.data_ptr(), y.data_ptr(), y.numel() // width, width, gelu)
    return y


def turned(
    made: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, step: SlotStep
) -> Tensor:
    """Queries [tokens, heads, dim], rotated; keys and values go into the slots."""
    slots, tokens = slots_of(keys, values), tokens_of(step)
    check(made, cos, sin)
    count, every, dim = made.shape
    heads = every - 2 * keys.shape[1]
    query = made.new_empty(count, heads, dim)
    function("turned", _TURNED)(
        made.contiguous().data_ptr(),
        cos.contiguous().data_ptr(),
        sin.contiguous().data_ptr(),
        ctypes.addressof(slots),
        ctypes.addressof(tokens),
        query.data_ptr(),
        heads,
    )
    return query


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    step: SlotStep,
    window: int | None,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """[tokens, heads, dim]: each token's queries over its own slot, up to its position.

    softcap, sinks: as `slot_attention` has them.
    """
    slots, tokens = slots_of(keys, values), tokens_of(step)
    how = Weighing.of(window, scale, softcap, sinks)
    check(query)
    count, heads, dim = query.shape
    query = query if query.stride(2) == 1 else query.contiguous()
    queries = _Queries(query.data_ptr(), query.stride(0), query.stride(1), heads // slots.kv_heads)
    out = query.new_empty(count, heads, dim)
    function("attend", _ATTEND)(
        ctypes.addressof(slots),
        ctypes.addressof(tokens),
        ctypes.addressof(queries),
        ctypes.addressof(how),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def attended(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    step: SlotStep,
    window: int | None,
    scale: float | None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor | None:
    """The same; None where it is not for this code."""
    if query.device.type != "cpu" or query.dtype != torch.float32 or not able():
        return None
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    try:
        return attend(query, keys, values, step, window, scale, softcap, sinks)
    except TypeError:
        return None


def slots_of(keys: Tensor, values: Tensor) -> Slots:
    """Of a layer's [all rows, kv_heads, .., dim]."""
    _, kv_heads, _, dim = keys.shape
    row, head, position, one = keys.stride()
    if dim % _LANES or values.shape != keys.shape or values.stride() != keys.stride():
        raise TypeError(f"heads of {dim} and {values.shape[-1]}: alike, and of whole eights")
    if (position, one) != (dim, 1):
        raise TypeError("slots lie in another way")
    check(keys, values)
    return Slots(keys.data_ptr(), values.data_ptr(), row, head, kv_heads, dim)


def tokens_of(step: SlotStep) -> _Tokens:
    """The pass's, as long as the step is there."""
    rows, positions = step.places
    return _Tokens(rows.data_ptr(), positions.data_ptr(), len(rows))


def check(*tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.dtype != torch.float32:
            raise TypeError(f"{tensor.dtype}: float32 is computed with")
