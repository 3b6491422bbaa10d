"""A linear layer's product by `product.cpp`."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn.functional import pad

from .build import INT, POINTER, SIZE, function
from .pages import halves

_PRODUCT = POINTER, POINTER, POINTER, SIZE, INT


class _Weights(ctypes.Structure):
    _fields_ = (
        ("panels", POINTER),
        ("bias", POINTER),
        ("outputs", SIZE),
        ("inputs", SIZE),
    )


class Native:
    """The forward of a linear layer whose float32 weight [out, in] float16 holds: see `half.fits`.

    Raises `build.Unavailable` where the code cannot be had.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._product = function("product", _PRODUCT)
        self.outputs, self._inputs = weight.shape
        self._panels = _in_panels(weight, function("panel_width", (), SIZE)())
        self._bias = None if bias is None else bias.detach().contiguous()
        self._weights = _Weights(
            self._panels.data_ptr(),
            None if self._bias is None else self._bias.data_ptr(),
            self.outputs,
            self._inputs,
        )
        self.address = ctypes.addressof(self._weights)

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32 or x.shape[-1] != self._inputs:
            raise TypeError(f"{x.dtype} of {x.shape[-1]}: float32 of {self._inputs} is multiplied")
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], self.outputs)
        rows, threads = x.numel() // self._inputs, torch.get_num_threads()
        self._product(self.address, x.data_ptr(), y.data_ptr(), rows, threads)
        return y


def _in_panels(weight: Tensor, width: int) -> Tensor:
    """float16 [panels, in, width] of [out, in], the last panel filled up with zeros."""
    half = pad(weight.detach().half(), (0, 0, 0, -len(weight) % width))
    panels = half.view(-1, width, weight.shape[1]).transpose(1, 2)
    return halves(half.numel()).view(panels.shape).copy_(panels)
