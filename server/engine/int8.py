"""Linear layers in eight bits, for a CPU: a quarter of the bytes to read, and integer products.

Weights are quantized once, symmetrically for each output; every token is scaled to its own largest
number on its way in. Sums of integers do not round, so a token's product is the same to the bit
alone and in any batch. All else stays float32: the residual stream, norms, attention, steering.

FBGEMM multiplies, of the ways that torch has on a CPU the fastest (at 8 rows 2.5 times oneDNN's
packed float32, `torch._int_mm` 1.6 times). torch calls its quantized tensors deprecated; a version
without them is refused here with a sentence.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from ..errors import SteerdeckError
from .fbgemm import packing
from .joined import groups, shared
from .linear import large, read_elsewhere, side_by_side, width

log = logging.getLogger("steerdeck.engine")

_TINY = 1e-30  # a token of zeros is divided by it


def _levels() -> int:
    """Steps from 0 to a token's largest number. Without VNNI pairs of products are added in 16
    bits, which seven-bit numbers cannot overflow.
    """
    return 127 if torch.cpu._is_vnni_supported() else 63


class _Eight:
    """The forward of a linear layer whose weight [out, in] is in eight bits."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.bias = bias
        self._levels = _levels()
        scales = weight.abs().amax(1).clamp_min(_TINY) / 127
        zeros = torch.zeros(len(scales), dtype=torch.long)
        with packing():
            eight = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
            self._packed = torch.ops.quantized.linear_prepack(eight, None)
        self._product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32

    def __call__(self, x: Tensor) -> Tensor:
        largest = x.abs().amax(-1, keepdim=True).clamp_min_(_TINY)
        levels = self._levels
        y: Tensor = self._product(x / largest, 1 / levels, levels, self._packed)
        y.mul_(largest)
        return y if self.bias is None else y.add_(self.bias)


def quantize(model: nn.Module) -> int:
    """Put the large float32 linear layers of a model on the CPU in eight bits, in place.

    Returns how many. Their float32 weights are given up, but for those that are read elsewhere.
    Raises SteerdeckError where this machine or this torch cannot.
    """
    layers = large(model, (torch.float32,))
    kept = read_elsewhere(model)
    with torch.no_grad():
        for group in groups(model, layers):
            try:
                eight = _Eight(*side_by_side(group))
            except (AttributeError, RuntimeError) as error:
                raise SteerdeckError(
                    f"this machine's torch {torch.__version__} cannot multiply in eight bits "
                    f"({error}): leave --dtype int8 out"
                ) from error
            for layer, part in zip(group, shared(eight, list(map(width, group))), strict=True):
                layer.forward = part
                if layer.weight.data_ptr() not in kept:
                    layer.weight = nn.Parameter(torch.empty(0), requires_grad=False)
    log.info("%d linear layers multiply in eight bits", len(layers))
    return len(layers)
