"""What stays as it is in a compiled layer: its linear layers and its attention, as two operators.

Compiled code calls them back, so weights are in it neither as constants nor as arguments, packed
ones keep their packing (`linear.py`) and joined ones their product (`joined.py`), and rows, slots
and masks are attention's own business: the code depends on nothing but the number of tokens, and
that may be any.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.library import Library
from transformers.pytorch_utils import Conv1D

from ..attention import slot_attention
from ..joined import Product


class Opaque(NamedTuple):
    """The parts of one layer. products: of `groups`, all outputs of each side by side."""

    products: tuple[Product, ...]
    attention: nn.Module | None


RUNNING: ContextVar[Opaque] = ContextVar("steerdeck_layer")  # whose compiled code runs

_LIBRARY: Any = Library("steerdeck", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define("linear(Tensor x, int which, int width) -> Tensor")
_LIBRARY.define(
    "attention(Tensor query, Tensor key, Tensor value, float? scaling, int? window, "
    "float? softcap, Tensor? sinks) -> Tensor"
)


def linears(layer: nn.Module) -> list[Any]:
    return [module for module in layer.modules() if isinstance(module, nn.Linear | Conv1D)]


def _linear(x: Tensor, which: int, width: int) -> Tensor:
    return RUNNING.get().products[which](x)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    module = RUNNING.get().attention
    assert module is not None
    out, _ = slot_attention(
        module,
        query,
        key,
        value,
        None,
        scaling=scaling,
        sliding_window=window,
        softcap=softcap,
        s_aux=sinks,
    )
    return out.contiguous()


def traced_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """`slot_attention` as the compiler sees it."""
    out = torch.ops.steerdeck.attention(query, key, value, scaling, sliding_window, softcap, s_aux)
    return out, None


def _linear_shape(x: Tensor, which: int, width: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], width))


def _attention_shape(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    return query.new_empty((1, query.shape[2], query.shape[1], value.shape[-1]))


_LIBRARY.impl("linear", _linear, "CPU")
_LIBRARY.impl("attention", _attention, "CPU")
torch.library.register_fake("steerdeck::linear", _linear_shape, lib=_LIBRARY)
torch.library.register_fake("steerdeck::attention", _attention_shape, lib=_LIBRARY)
