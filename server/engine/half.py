"""Linear layers whose weights float16 holds, for a CPU: float32 products for half the reading.

Most models are published in bfloat16 or float16, and are run in float32 on a CPU: half of every
weight they read is zeros. Here such weights lie in float16, are widened in registers, multiplied
and summed in float32: nothing is rounded that float32 does not round. bfloat16's numbers are
float16's as well, but for the smallest, below 6e-5, which lose their last bits.

Our own code multiplies (`native/`), or FBGEMM where it cannot be compiled. A step of few rows is as
fast as its weights are read, so it takes little more than half the time. FBGEMM reads them once for
every six rows. With AVX-512 its products, too, are the same to the bit alone and in any batch: it
sums over the inputs in one order however many rows there are, which oneDNN does not. With AVX2
alone it sums the last one or two rows in another order in some batches, such as of 1, 2 or 7.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .fbgemm import packing

_ROUNDING = 2.0**-24  # float32's own, relative
_AT_ONCE = 2**24  # weights looked at


class Half:
    """The forward, by FBGEMM, of a linear layer whose weight [out, in] `fits`.

    Raises AttributeError or RuntimeError where this torch or this machine cannot.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        with packing():
            self._packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)
        self._product = torch.ops.quantized.linear_dynamic_fp16

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self._product(x, self._packed)
        return y


def fits(weight: Tensor) -> bool:
    """Whether float16 holds a float32 weight [out, in].

    Rounding it may change an output by no more than float32 does, which rounds a sum of n terms by
    about sqrt(n) of its units.
    """
    tolerance = _ROUNDING * math.sqrt(weight.shape[1])
    for rows in torch.split(weight, max(1, _AT_ONCE // weight.shape[1])):
        moved = rows.half().float().sub_(rows)
        if not (moved.norm(dim=1) <= tolerance * rows.norm(dim=1)).all():
            return False
    return True
