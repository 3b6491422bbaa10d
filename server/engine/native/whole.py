"""Whole decoder layers by `layer.cpp`: all parts of all of them in one call.

Python between two layers costs more than it looks: what it needs has left the processor's caches
while a layer's weights went through them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .build import FLOAT, INT, POINTER, SIZE, function
from .edits import Move
from .layers import Slots, Weighing, check, slots_of, tokens_of
from .product import Native

if TYPE_CHECKING:
    from ..attention import SlotStep


_DECODER_LAYERS = POINTER, POINTER, SIZE, *((POINTER,) * 5), INT


NORMS = "before", "attended", "between", "gated", "queries", "keys"
"""Those of a layer: before attention, of what that adds, before the MLP, of what that adds, and of
heads. All layers have the first and the third."""


class _Norm(ctypes.Structure):
    _fields_ = (("weight", POINTER), ("eps", FLOAT))


def _norm(given: tuple[Tensor, float] | None) -> _Norm:
    return _Norm() if given is None else _Norm(given[0].data_ptr(), given[1])


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Norm) for name in NORMS),
        *((name, POINTER) for name in ("joined", "out", "both", "down")),
        ("slots", Slots),
        ("heads", SIZE),
        ("rotation", SIZE),
        ("weighing", Weighing),
        ("gelu", INT),
    )


class _Moves(ctypes.Structure):
    _fields_ = (("at", POINTER), ("count", SIZE))


class _Turn(ctypes.Structure):
    _fields_ = (("cos", POINTER), ("sin", POINTER))


class _End(ctypes.Structure):
    _fields_ = (("norm", _Norm), ("head", POINTER), ("logits", POINTER))


class End:
    """What follows a model's last layer: a norm's weight and eps, and the product of its logits,
    where all tokens' are wanted. After a run with it `logits` is there, [1, tokens, vocabulary].
    """

    def __init__(self, norm: tuple[Tensor, float], head: Native | None) -> None:
        check(norm[0])
        self._norm, self._head = norm, head
        self.logits: Tensor | None = None
        address = None if head is None else head.address
        self._end = _End(_norm(norm), address, None)

    def over(self, x: Tensor) -> int:
        """Its address, for a run over x."""
        if self._head is not None:
            self.logits = x.new_empty(*x.shape[:-1], self._head.outputs)
            self._end.logits = self.logits.data_ptr()
        return ctypes.addressof(self._end)


class Whole:
    """norms: weight and eps of each of `NORMS` that there is. products: of queries, keys and values
    joined, of attention's outputs, of gate and up joined, and of what they made.

    Raises TypeError for products and norms that are not our own code's.
    """

    def __init__(
        self,
        norms: Mapping[str, tuple[Tensor, float]],
        products: Sequence[Any],
        *,
        heads: int,
        weighing: Weighing,
        gelu: bool,
    ) -> None:
        if not all(isinstance(product, Native) for product in products):
            raise TypeError("its products are another library's")
        check(*(weight for weight, _ in norms.values()))
        self._kept = norms, products, weighing
        self._slots: tuple[Tensor, Tensor] | None = None
        self._layer = _Layer(
            *(_norm(norms.get(name)) for name in NORMS),
            *(product.address for product in products),
            Slots(),
            heads,
            0,
            weighing,
            gelu,
        )
        self.address = ctypes.addressof(self._layer)

    @property
    def rotation(self) -> int:
        """By which of those that a run is given its queries and keys are rotated."""
        return int(self._layer.rotation)

    def turn_by(self, rotation: int) -> None:
        self._layer.rotation = rotation

    def over(self, keys: Tensor, values: Tensor) -> None:
        """Whose slots [all rows, kv_heads, .., dim] it is to read and write."""
        self._layer.slots = slots_of(keys, values)
        self._slots = keys, values


class Run:
    """Layers one after the other, each over its slots."""

    def __init__(self, layers: Sequence[Whole]) -> None:
        self._layers = layers
        self._addresses = (POINTER * len(layers))(*(layer.address for layer in layers))
        self._still = (_Moves * len(layers))()
        self._run = function("decoder_layers", _DECODER_LAYERS)

    def __call__(
        self,
        x: Tensor,
        turns: Sequence[tuple[Tensor, Tensor]],
        step: SlotStep,
        moves: Mapping[int, Sequence[Move]],
        end: End | None = None,
    ) -> Tensor:
        """x [1, tokens, d_model]. turns: cos and sin [1, tokens, dim] of each rotation. moves: by
        layer of the run, of tokens that are of a row each. After an end, it is normed.
        """
        turns = [(cos.contiguous(), sin.contiguous()) for cos, sin in turns]
        check(x, *(one for turn in turns for one in turn))
        all_turns = (_Turn * len(turns))(*(_Turn(c.data_ptr(), s.data_ptr()) for c, s in turns))
        tokens = tokens_of(step)
        all_moves = self._still if not moves else (_Moves * len(self._layers))()
        arrays = {at: (Move * len(some))(*some) for at, some in moves.items()}
        for at, array in arrays.items():
            all_moves[at] = _Moves(ctypes.addressof(array), len(array))
        x, y = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        self._run(
            ctypes.addressof(self._addresses),
            ctypes.addressof(all_moves),
            len(self._layers),
            ctypes.addressof(tokens),
            x.data_ptr(),
            ctypes.addressof(all_turns),
            y.data_ptr(),
            None if end is None else end.over(x),
            torch.get_num_threads(),
        )
        return y
