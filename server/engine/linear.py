"""Linear layers for a CPU: weights packed once, in the order they are multiplied in.

Float32 weights that float16 holds are packed for our own code (`native/`), or for FBGEMM where that
cannot be compiled (`half.py`), and their first copy is given up. All others are packed for oneDNN:
left to itself torch packs a weight matrix anew in every call with a few rows or more, which at
batch 8 is a third of a decode step. torch's operators that are used here are private to it: a layer
for which they are missing or give another product keeps its plain one.

oneDNN's packing pays from about 2^16 weights and two rows on; a single row is a plain dot product
and goes to the plain weight. A packed weight is a second copy, so in models with more than SPARE
bytes of them the first copy is given up, and single rows use the packed one as well (a little
slower).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .half import Half, fits
from .joined import Product, groups, shared
from .native.product import Native

log = logging.getLogger("steerdeck.engine")

Rounding = Literal["float16", "int8"]
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)
"""In which large linear layers may hold their weights, rounded, where the rest is float32."""

WORTH = 2**16  # weights of a matrix
SPARE = 2**30  # bytes
_PRODUCTS = nn.Linear.forward, Conv1D.forward


def _reorder(weight: Tensor, rows: int) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return packed


class _Packed:
    """The product with a packed weight [out, in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.bias = bias
        self._weight = _reorder(weight, 8)

    def __call__(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self.bias, "none", [], ""
        )
        return product


class _Either:
    """A layer's forward: several rows by the packed weight, a single one by the plain."""

    def __init__(self, layer: Any, packed: Product) -> None:
        self._weight, self._bias, self._packed = plain(layer), layer.bias, packed

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() < 2 * x.shape[-1]:
            return F.linear(x, self._weight, self._bias)
        return self._packed(x)


def pack(model: nn.Module, *, spare: int = SPARE) -> int:
    """Pack the large linear layers of a model on the CPU, in place; returns how many.

    Those in bfloat16 as well, on a CPU that multiplies it.
    """
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.9 has none
    halves = able.get("avx512_bf16") or able.get("amx_bf16")
    dtypes = (torch.float32, torch.bfloat16) if halves else (torch.float32,)
    layers = large(model, dtypes)
    keep = sum(layer.weight.nbytes for layer in layers) <= spare
    read = read_elsewhere(model)
    done = 0
    missed: Counter[str] = Counter()
    with torch.no_grad():
        for group in groups(model, layers):
            packed = _packed(*side_by_side(group), missed)
            if packed is None:
                continue
            done += len(group)
            either = keep and isinstance(packed, _Packed)
            for layer, part in zip(group, shared(packed, list(map(width, group))), strict=True):
                layer.forward = _Either(layer, part) if either else part
                if not either and layer.weight.data_ptr() not in read:
                    layer.weight = nn.Parameter(layer.weight.new_empty(0), requires_grad=False)
    if done:
        log.info("packed %d linear layers", done)
    for why, times in missed.items():
        log.warning("%d products of linear layers are slower without %s", times, why)
    return done


def halve(model: nn.Module) -> None:
    """Round the large float32 layers of a model on the CPU to what float16 holds, in place."""
    with torch.no_grad():
        for layer in large(model, (torch.float32,)):
            layer.weight.copy_(layer.weight.half())


def _packed(weight: Tensor, bias: Tensor | None, missed: Counter[str]) -> Product | None:
    """The best product there is with this weight; None if that is the plain one.

    missed: counts what would have been better, and why it was not to be had.
    """
    kinds: dict[str, Callable[[Tensor, Tensor | None], Product]] = {"oneDNN": _Packed}
    if weight.dtype == torch.float32 and fits(weight):
        kinds = {"own code": Native, "FBGEMM": Half, **kinds}
    for library, kind in kinds.items():
        try:
            product = kind(weight, bias)
            if _agrees(product, weight, bias):
                return product
            missed[f"{library}: packed weights give another product"] += 1
        except (AttributeError, RuntimeError) as error:
            missed[f"{library}: {error}"] += 1
    return None


def _agrees(product: Product, weight: Tensor, bias: Tensor | None) -> bool:
    x = torch.linspace(-1.0, 1.0, 3 * weight.shape[1]).view(1, 3, -1).to(weight.dtype)
    expected = F.linear(x, weight, bias)
    near = 1e-4 if x.dtype == torch.float32 else 1e-2
    return torch.allclose(product(x), expected, rtol=near, atol=near * expected.abs().max().item())


def large(model: nn.Module, dtypes: Collection[torch.dtype]) -> list[Any]:
    """The linear layers on the CPU with weights of these types, and enough of them.

    Not those that do more than multiply, such as the routers of Llama 4's and Phi-3.5's experts.
    """
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Linear | Conv1D)
        and type(layer).forward in _PRODUCTS
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype in dtypes
        and layer.weight.numel() >= WORTH
    ]


def plain(layer: Any) -> Tensor:
    """Its weight as [out, in]; GPT-2's Conv1D has it the other way round."""
    weight: Tensor = layer.weight.detach()
    return weight.T.contiguous() if isinstance(layer, Conv1D) else weight


def width(layer: Any) -> int:
    return int(layer.nf if isinstance(layer, Conv1D) else layer.out_features)


def side_by_side(group: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
    """The weights [all outputs, in] and biases of layers that read the same."""
    if len(group) == 1:
        return plain(group[0]), group[0].bias
    weight, biases = torch.cat([plain(layer) for layer in group]), [one.bias for one in group]
    if all(bias is None for bias in biases):
        return weight, None
    filled = [
        weight.new_zeros(width(layer)) if bias is None else bias
        for layer, bias in zip(group, biases, strict=True)
    ]
    return weight, torch.cat(filled)


def read_elsewhere(model: nn.Module) -> set[int]:
    """Where weights lie that are not only multiplied by: those of embeddings, to which an output
    head may be tied, and the head's own, which the logit lens reads in parts.
    """
    read = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return {module.weight.data_ptr() for module in (*read, head) if module is not None}
