"""A part of a pass edited at a site, by `edits.cpp`."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .build import INT, POINTER, SIZE, function

if TYPE_CHECKING:
    from ..part import Part
    from ..tables import View

_EDIT = POINTER, POINTER, POINTER, SIZE, INT, POINTER, POINTER


_NUMBERS = "gain", "offset", "gate", "threshold", "scale", "shift", "floor", "ceiling"


class _Edits(ctypes.Structure):
    _fields_ = (
        ("enc", POINTER),
        ("dec", POINTER),
        ("features", SIZE),
        *((name, POINTER) for name in _NUMBERS),
        ("adds", POINTER),
        ("numbers", SIZE),
        ("entries", SIZE),
        ("width", SIZE),
    )


def edited(
    x: Tensor, y: Tensor, view: View, part: Part, acts: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """y [rows, tokens, d] moved by what the edits of a part's rows add to x; acts: as
    `Part.steerable`. Where it is traced, the activations of the last token of each row, before and
    after, [2, rows, k].
    """
    features, edits = view.features, view.edits
    of_features = features.gain, features.offset, features.gate, features.threshold
    of_edits = edits.scale, edits.shift, edits.floor, edits.ceiling
    rows, entries, width = features.dec.shape
    tables = _Edits(
        features.enc.data_ptr() if features.enc.shape[-1] else None,
        features.dec.data_ptr(),
        features.dec.stride(0),
        *(numbers.data_ptr() for numbers in (*of_features, *of_edits)),
        view.adds.data_ptr(),
        features.gain.stride(0),
        entries,
        width,
    )
    x, y = x.contiguous(), y.clone(memory_format=torch.contiguous_format)
    noted = x.new_empty(2, rows, entries) if part.traced else None
    function("edit", _EDIT)(
        ctypes.addressof(tables),
        x.data_ptr(),
        y.data_ptr(),
        x.numel() // width,
        part.apart,
        None if acts is None else acts.data_ptr(),
        None if noted is None else noted.data_ptr(),
    )
    return y, noted
