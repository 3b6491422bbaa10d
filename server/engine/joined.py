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
            if all(isinstance(one, nn.Linear) and id(one) in rest for one in several):
                found.append([rest.pop(id(one)) for one in several])
    return found + [[layer] for layer in rest.values()]


def shared(product: Product, widths: Sequence[int]) -> list[Product]:
    """What each of several layers is to be called by, where `product` makes all their outputs, of
    these widths, side by side. Nobody writes to what they read before the last has asked.
    """
    if len(widths) == 1:
        return [product]
    kept = _Kept(product, widths)
    return [_Part(kept, index) for index in range(len(widths))]


def whole(layers: Sequence[Any]) -> Product | None:
    """What makes the outputs of all of these layers side by side; None if nothing does."""
    parts = [layer.forward for layer in layers]
    first = parts[0]
    if not isinstance(first, _Part) or len(first.kept.widths) != len(parts):
        return None
    same = all(isinstance(p, _Part) and p.kept is first.kept for p in parts)
    return first.kept.product if same and [p.index for p in parts] == [*range(len(parts))] else None


def together(layers: Sequence[Any]) -> Product:
    """All their outputs side by side, by one product if there is one."""
    if len(layers) == 1:
        product: Product = layers[0].forward
        return product
    return whole(layers) or (lambda x: torch.cat([layer(x) for layer in layers], -1))


class _Part:
    def __init__(self, kept: _Kept, index: int) -> None:
        self.kept, self.index = kept, index

    def __call__(self, x: Tensor) -> Tensor:
        return self.kept.part(self.index, x)


class _Kept:
    """Safe for several threads, each with numbers of its own."""

    def __init__(self, product: Product, widths: Sequence[int]) -> None:
        self.product, self.widths = product, list(widths)
        self._last: tuple[Any, Any, list[Tensor | None]] = _NOTHING

    def part(self, index: int, x: Tensor) -> Tensor:
        # Compiled code may hand over the same numbers as another object. x is held until all have
        # asked, so nothing else can lie where it lies.
        asked = x.data_ptr(), x.shape, x.stride()
        known, _, parts = self._last
        part = parts[index] if known == asked else None
        if part is None:
            made = torch.split(self.product(x), self.widths, -1)
            part, parts = made[index], list(made)
            self._last = asked, x, parts
        parts[index] = None
        if not any(one is not None for one in parts):
            self._last = _NOTHING
        return part.contiguous()


_NOTHING: tuple[Any, Any, list[Tensor | None]] = (None, None, [])
