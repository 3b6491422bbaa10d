"""Products of a single row: nothing but reading the weights, so the kernel that reads fastest.

cuBLAS is made for matrices, and leaves some of the memory's bandwidth lying where one side is a
vector. A few kernels of our own are timed beside it at start, for every shape of the model's
weights; whoever is quickest on this GPU is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .products import Joined

log = logging.getLogger("steerdeck.engine")

Kernel = Callable[[Tensor, Tensor, Tensor | None], Tensor]

_WORTH = 2**20  # weights of a matrix
_BYTES = 2**28  # read between two looks at one matrix, so that it comes from memory each time
_ROUNDS = 3
_AHEAD = 4_000_000  # cycles, some 2 ms
_BETTER = 0.97  # of cuBLAS' time
_NEAR = 1e-2  # of the norm of what it gives


class Single:
    """A linear layer's forward: a single row by a kernel of its own, several as ever."""

    def __init__(self, layer: nn.Linear, kernel: Kernel) -> None:
        self._layer, self._kernel = layer, kernel

    def __call__(self, x: Tensor) -> Tensor:
        layer = self._layer
        if x.numel() == x.shape[-1]:
            return self._kernel(x, layer.weight, layer.bias)
        return F.linear(x, layer.weight, layer.bias)


def choose(model: nn.Module, products: Sequence[Joined], kernels: Sequence[Kernel]) -> int:
    """Give large products the quickest kernel there is for one row; returns how many got another
    than torch's. products: those whose layers nobody calls by themselves in a decode step.
    """
    shapes: dict[Any, list[Any]] = {}
    inside = {product.weight.untyped_storage().data_ptr() for product in products}
    several: list[Any] = [*products, *_layers(model, inside)]
    for one in several:
        key = tuple(one.weight.shape), one.weight.dtype, one.bias is None
        shapes.setdefault(key, []).append(one)
    changed = 0
    for (shape, _dtype, _bare), alike in shapes.items():
        best = _quickest(alike, kernels)
        if best is None:
            continue
        changed += len(alike)
        for one in alike:
            if isinstance(one, Joined):
                one.single = best
            else:
                one.forward = Single(one, best)
        log.debug("%d products of %s take another kernel for one row", len(alike), shape)
    return changed


def _layers(model: nn.Module, inside: set[int]) -> list[nn.Linear]:
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear)
        and type(module).forward is nn.Linear.forward
        and "forward" not in vars(module)
        and module.weight.numel() >= _WORTH
        and module.weight.untyped_storage().data_ptr() not in inside
    ]


def _quickest(alike: Sequence[Any], kernels: Sequence[Kernel]) -> Kernel | None:
    """For weights of one shape; None for torch's own."""
    first: Tensor = alike[0].weight
    if first.numel() < _WORTH or not first.is_contiguous():
        return None
    several = alike[: max(1, _BYTES // first.nbytes)]
    x = torch.randn(1, 1, first.shape[1], device=first.device).to(first.dtype)
    expected = F.linear(x, first, alike[0].bias).float()
    best, least = None, _seconds(F.linear, x, several) * _BETTER
    for kernel in kernels:
        try:
            got = kernel(x, first, alike[0].bias).float()
            if not (got - expected).norm() <= _NEAR * expected.norm():
                continue
            took = _seconds(kernel, x, several)
        except Exception as error:
            log.debug("a kernel for one row: %r", error)
            continue
        if took < least:
            best, least = kernel, took
    return best


def _seconds(kernel: Kernel, x: Tensor, several: Sequence[Any]) -> float:
    """Of all of them one after the other, at best."""
    best = float("inf")
    for _ in range(_ROUNDS):
        # Asked for faster than computed: the time is the device's, not that of the calls.
        getattr(torch.cuda, "_sleep", int)(_AHEAD)
        event: Any = torch.cuda.Event
        began, ended = event(enable_timing=True), event(enable_timing=True)
        began.record()
        for one in several:
            kernel(x, one.weight, one.bias)
        ended.record()
        ended.synchronize()
        best = min(best, began.elapsed_time(ended) / 1000)
    return best
