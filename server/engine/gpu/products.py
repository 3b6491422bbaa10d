"""Linear layers on a GPU that read the same numbers, as one product, without a second copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..linear import side_by_side, width


def joined(layers: Sequence[Any]) -> Joined:
    """All their outputs side by side. Their weights lie in one piece from here on, of which each
    has its part. Raises TypeError for layers that do more than multiply.
    """
    if not all(type(one).forward is nn.Linear.forward for one in layers):
        raise TypeError("they are no plain linear layers")
    if any("forward" in vars(one) for one in layers):
        raise TypeError("they are multiplied in another way already")
    if len({(layer.weight.dtype, layer.weight.device) for layer in layers}) > 1:
        raise TypeError("their weights differ in type")
    with torch.no_grad():
        weight, bias = side_by_side(layers)
        start = 0
        for layer in layers:
            part = slice(start, start + width(layer))
            layer.weight.data = weight[part]  # not a new parameter: other models may share it
            if layer.bias is not None and bias is not None:
                layer.bias.data = bias[part]
            start = part.stop
    return Joined(weight, bias)


class Joined:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.single: Callable[[Tensor, Tensor, Tensor | None], Tensor] = F.linear  # of one row

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() == x.shape[-1]:
            return self.single(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)
