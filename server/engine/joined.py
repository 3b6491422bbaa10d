"""Linear layers that read the same numbers, as one product: queries, keys and values; gate and up.

A product is made when the first of them is asked for, and what the others will ask is kept until
they do. It saves calls, of which a small model's step has hundreds, and one wide product is quicker
than three narrow ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Product = Callable[[Tensor], Tensor]

_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def groups(model: nn.Module, layers: Sequence[Any]) -> list[list[Any]]:
    """All of `layers`, those together that one module of the model feeds the same."""
    rest = {id(layer): layer for layer in layers}
    found = []
    for module in model.modules():
        for names in _TOGETHER:
            several = [getattr(module, name, None) for name in names]
            if _alike(several) and all(id(one) in rest for one in several):
                found.append([rest.pop(id(one)) for one in several])
    return found + [[layer] for layer in rest.values()]


def _alike(layers: Sequence[Any]) -> bool:
    """Whether they are linear layers, each another, with weights of one type."""
    if not all(isinstance(layer, nn.Linear) for layer in layers):
        return False
    dtypes = {layer.weight.dtype for layer in layers}
    return len(dtypes) == 1 and len(set(layers)) == len(layers)


def shared(product: Product, widths: Sequence[int]) -> list[Product]:
    """What each of several layers is to be called by, where `product` makes all their outputs, of
    these widths, side by side. Nobody writes to what they read before the last has asked.
    """
    if len(widths) == 1:
        return [product]
    return _Kept(product, widths).parts


def joined(layers: Sequence[Any]) -> Product:
    """The product that makes all outputs of these layers. Raises ValueError if there is none."""
    parts = [layer.forward for layer in layers]
    kept = getattr(parts[0], "kept", None)
    if kept is None or parts != kept.parts:
        raise ValueError("they are not joined")
    product: Product = kept.product
    return product


def together(layers: Sequence[Any]) -> Product:
    """All their outputs side by side, by one product if there is one."""
    if len(layers) == 1:
        product: Product = layers[0].forward
        return product
    try:
        return joined(layers)
    except ValueError:
        return lambda x: torch.cat([layer(x) for layer in layers], -1)


class _Part:
    def __init__(self, kept: _Kept, index: int) -> None:
        self.kept, self._index = kept, index

    def __call__(self, x: Tensor) -> Tensor:
        return self.kept.part(self._index, x)


class _Kept:
    """Safe for several threads, each with numbers of its own."""

    def __init__(self, product: Product, widths: Sequence[int]) -> None:
        self.product, self._widths = product, list(widths)
        self.parts: list[Product] = [_Part(self, index) for index in range(len(widths))]
        self._last = _NOTHING

    def part(self, index: int, x: Tensor) -> Tensor:
        known, parts = self._last
        part = parts[index] if known is x else None
        if part is None:
            made = torch.split(self.product(x), self._widths, -1)
            part, parts = made[index], list(made)
            self._last = x, parts
        parts[index] = None
        if not any(one is not None for one in parts):
            self._last = _NOTHING
        return part.contiguous()


_NOTHING: tuple[Tensor | None, list[Tensor | None]] = (None, [])
