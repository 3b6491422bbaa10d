"""Linear layers for a CPU: weights packed once, in the order oneDNN multiplies them in.

Left to itself torch packs a weight matrix anew in every call with a few rows or more, which at
batch 8 is a third of a decode step. The operators used here are private to torch: a layer for
which they are missing or give another product keeps its plain one.

Packing pays from about 2^16 weights and two rows on; a single row is a plain dot product and goes
to the plain weight. A packed weight is a second copy, so in models with more than SPARE bytes of
them the first copy is given up, and single rows use the packed one as well (a little slower).
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

log = logging.getLogger("steerdeck.engine")

WORTH = 2**16  # weights of a matrix
SPARE = 2**30  # bytes


def _reorder(weight: Tensor, rows: int) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return packed


class _Packed:
    """The forward of a linear layer whose weight [out, in] is packed; `plain` may be given up."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.plain: Tensor | None = weight
        self.bias = bias
        self.packed = _reorder(weight, 8)

    def __call__(self, x: Tensor) -> Tensor:
        if self.plain is not None and x.numel() < 2 * x.shape[-1]:
            return F.linear(x, self.plain, self.bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.packed, self.bias, "none", [], ""
        )
        return product

    def agrees(self) -> bool:
        assert self.plain is not None
        x = torch.linspace(-1.0, 1.0, 3 * self.plain.shape[1]).view(1, 3, -1).to(self.plain.dtype)
        expected = F.linear(x, self.plain, self.bias)
        near = 1e-4 if x.dtype == torch.float32 else 1e-2
        return torch.allclose(self(x), expected, rtol=near, atol=near * expected.abs().max().item())


def pack(model: nn.Module, *, spare: int = SPARE) -> int:
    """Pack the large linear layers of a model on the CPU, in place; returns how many.

    Those in bfloat16 as well, on a CPU that multiplies it.
    """
    able = torch.cpu.get_capabilities()
    halves = able.get("avx512_bf16") or able.get("amx_bf16")
    dtypes = (torch.float32, torch.bfloat16) if halves else (torch.float32,)
    layers = large(model, dtypes)
    keep = sum(layer.weight.nbytes for layer in layers) <= spare
    read = read_elsewhere(model)
    done = 0
    with torch.no_grad():
        for layer in layers:
            packed = _packed(layer)
            if packed is None:
                continue
            done += 1
            if not keep and layer.weight.data_ptr() not in read:
                packed.plain = None
                layer.weight = nn.Parameter(layer.weight.new_empty(0), requires_grad=False)
            layer.forward = packed
    if done:
        log.info("packed %d linear layers", done)
    return done


def large(model: nn.Module, dtypes: Collection[torch.dtype]) -> list[Any]:
    """The linear layers on the CPU with weights of these types, and enough of them."""
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Linear | Conv1D)
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype in dtypes
        and layer.weight.numel() >= WORTH
    ]


def _packed(layer: Any) -> _Packed | None:
    weight = layer.weight.T.contiguous() if isinstance(layer, Conv1D) else layer.weight
    try:
        packed = _Packed(weight.detach(), layer.bias)
        return packed if packed.agrees() else None
    except (AttributeError, RuntimeError) as error:
        log.warning("linear layers stay plain, which is slower: %s", error)
        return None


def read_elsewhere(model: nn.Module) -> set[int]:
    """Where weights lie that are not only multiplied by: those of embeddings, to which an output
    head may be tied, and the head's own, which the logit lens reads in parts.
    """
    read = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return {module.weight.data_ptr() for module in (*read, head) if module is not None}
