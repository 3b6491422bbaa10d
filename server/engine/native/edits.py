"""A part of a pass edited at a site, by `edits.cpp`."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .build import INT, POINTER, SIZE, function

if TYPE_CHECKING:
    from ..tables import View

_EDIT = POINTER, POINTER, POINTER, SIZE, INT


_NUMBERS = "gain", "offset", "gate", "threshold", "scale", "shift", "floor", "ceiling"


class Edits(ctypes.Structure):
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


class Move(ctypes.Structure):
    """Edits of some rows' tokens, and what is noted of them; what it points to it keeps."""

    _fields_ = (("edits", POINTER), ("acts", POINTER), ("noted", POINTER))


def laid_out(view: View) -> Edits:
    """Where all of it lies, for as long as the view is there."""
    features, edits = view.features, view.edits
    of_features = features.gain, features.offset, features.gate, features.threshold
    of_edits = edits.scale, edits.shift, edits.floor, edits.ceiling
    _rows, entries, width = features.dec.shape
    return Edits(
        features.enc.data_ptr() if features.enc.shape[-1] else None,
        features.dec.data_ptr(),
        features.dec.stride(0),
        *(numbers.data_ptr() for numbers in (*of_features, *of_edits)),
        view.adds.data_ptr(),
        features.gain.stride(0),
        entries,
        width,
    )


def move(view: View, acts: Tensor | None, *, traced: bool) -> tuple[Move, Tensor | None]:
    """acts: as `Part.steerable`. Where it is traced, also where the activations of the last token
    of each row will be, before and after, [2, rows, k].
    """
    rows, entries, _width = view.features.dec.shape
    noted = view.features.dec.new_empty(2, rows, entries) if traced else None
    made = Move(
        ctypes.addressof(view.laid_out),
        None if acts is None else acts.data_ptr(),
        None if noted is None else noted.data_ptr(),
    )
    made.kept = view, acts, noted
    return made, noted


def edited(x: Tensor, y: Tensor, move: Move, *, apart: bool) -> Tensor:
    """y [rows, tokens, d] moved by what the edits add to x. apart: as `Part.apart`."""
    x, y = x.contiguous(), y.clone(memory_format=torch.contiguous_format)
    width = x.shape[-1]
    function("edit", _EDIT)(
        ctypes.addressof(move), x.data_ptr(), y.data_ptr(), x.numel() // width, apart
    )
    return y
