"""A whole decoder layer over rows that decode, by `layer.cpp`: one call for all its parts."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .build import library
from .layers import POINTER, SIZE, check, slots_of
from .product import Native

if TYPE_CHECKING:
    from ..attention import SlotStep


class Norm(NamedTuple):
    weight: Tensor
    eps: float


class _Norm(ctypes.Structure):
    _fields_ = (("weight", POINTER), ("eps", ctypes.c_float))


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Norm) for name in ("before", "between")),
        *((name, POINTER) for name in ("joined", "out", "both", "down")),
        ("heads", SIZE),
        ("window", SIZE),
        ("scale", ctypes.c_float),
    )


class Whole:
    """norms: before attention, and between it and the MLP. products: of queries, keys and values
    joined, of attention's outputs, of gate and up joined, and of what they made.

    Raises TypeError for products and norms that are not our own code's.
    """

    def __init__(
        self,
        norms: Sequence[Norm],
        products: Sequence[Any],
        *,
        heads: int,
        window: int | None,
        scale: float,
    ) -> None:
        if not all(isinstance(product, Native) for product in products):
            raise TypeError("its products are another library's")
        check(*(norm.weight for norm in norms))
        self._kept = norms, products
        self._layer = _Layer(
            *(_Norm(norm.weight.data_ptr(), norm.eps) for norm in norms),
            *(product.address for product in products),
            heads,
            window or 0,
            scale,
        )
        self._address = ctypes.addressof(self._layer)
        self._run = library().decoder_layer
        self._run.argtypes = (POINTER,) * 6 + (ctypes.c_int,)
        self._run.restype = None

    def __call__(
        self, x: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, step: SlotStep
    ) -> Tensor:
        """x [1, rows, d_model], and what rotates its queries and keys [1, rows, dim]. Keys and
        values of the rows' slots [rows, kv_heads, .., dim] are written, as `layers.turned` does.
        """
        check(x, cos, sin)
        slots = slots_of(keys, values, step.positions)
        x, y = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        self._run(
            self._address,
            ctypes.addressof(slots),
            x.data_ptr(),
            cos.contiguous().data_ptr(),
            sin.contiguous().data_ptr(),
            y.data_ptr(),
            torch.get_num_threads(),
        )
        return y
