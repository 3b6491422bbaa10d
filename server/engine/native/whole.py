"""Whole decoder layers by `layer.cpp`: all parts of all of them in one call.

Python between two layers costs more than it looks: what it needs has left the processor's caches
while a layer's weights went through them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .build import FLOAT, INT, POINTER, SIZE, function
from .layers import Slots, check, slots_of, tokens_of
from .product import Native

if TYPE_CHECKING:
    from ..attention import SlotStep


_DECODER_LAYERS = POINTER, SIZE, POINTER, POINTER, POINTER, POINTER, POINTER, INT


class _Norm(ctypes.Structure):
    _fields_ = (("weight", POINTER), ("eps", FLOAT))


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Norm) for name in ("before", "between")),
        *((name, POINTER) for name in ("joined", "out", "both", "down")),
        ("slots", Slots),
        ("heads", SIZE),
        ("window", SIZE),
        ("scale", FLOAT),
    )


class Whole:
    """norms: weight and eps, before attention, and between it and the MLP. products: of queries,
    keys and values joined, of attention's outputs, of gate and up joined, and of what they made.

    Raises TypeError for products and norms that are not our own code's.
    """

    def __init__(
        self,
        norms: Sequence[tuple[Tensor, float]],
        products: Sequence[Any],
        *,
        heads: int,
        window: int | None,
        scale: float,
    ) -> None:
        if not all(isinstance(product, Native) for product in products):
            raise TypeError("its products are another library's")
        check(*(weight for weight, _ in norms))
        self._kept = norms, products
        self._slots: tuple[Tensor, Tensor] | None = None
        self._layer = _Layer(
            *(_Norm(weight.data_ptr(), eps) for weight, eps in norms),
            *(product.address for product in products),
            Slots(),
            heads,
            window or 0,
            scale,
        )
        self.address = ctypes.addressof(self._layer)

    def over(self, keys: Tensor, values: Tensor) -> None:
        """Whose slots [all rows, kv_heads, .., dim] it is to read and write."""
        if self._slots is None or self._slots[0] is not keys or self._slots[1] is not values:
            self._layer.slots = slots_of(keys, values)
            self._slots = keys, values


class Run:
    """Layers one after the other, each over its slots."""

    def __init__(self, layers: Sequence[Whole]) -> None:
        self._layers = layers
        self._addresses = (POINTER * len(layers))(*(layer.address for layer in layers))
        self._run = function("decoder_layers", _DECODER_LAYERS)

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, step: SlotStep) -> Tensor:
        """x [1, tokens, d_model], and what rotates its queries and keys [1, tokens, dim]."""
        check(x, cos, sin)
        tokens = tokens_of(step)
        x, y = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        self._run(
            ctypes.addressof(self._addresses),
            len(self._layers),
            ctypes.addressof(tokens),
            x.data_ptr(),
            cos.contiguous().data_ptr(),
            sin.contiguous().data_ptr(),
            y.data_ptr(),
            torch.get_num_threads(),
        )
        return y
