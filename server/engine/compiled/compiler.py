"""Compiles layers, as a process of its own: `python -m server.engine.compiled.compiler FOLDER`.

FOLDER/job.pt says what; what comes of it is FOLDER/<kind>.pt2, a shared library that runs without
Python but for the two opaque operators. The model is built without weights, from its config.

It is a process because a compiler works minutes in Python, and an engine thread in the same
process would wait for the interpreter at every operator.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._inductor
from torch import Tensor, nn
from torch.export import Dim, export
from torch.utils._pytree import tree_flatten, tree_unflatten
from transformers import AttentionInterface

from ..attention import NAME, register
from ..joined import groups
from ..linear import width
from ..sites import decoder_layers
from .call import Call, Job, Kind, small, tensors, varying
from .opaque import linears, traced_attention

_OPTIONS = {
    # One thread: what is left beside the linear layers is smaller than the waking of another.
    "cpp.threads": 1,
    "compile_threads": 1,
    # There are one or two kinds of layers: headers made ready once would hardly be used again.
    "cpp_cache_precompile_headers": False,
    "aot_inductor.precompile_headers": False,
    "aot_inductor.compile_wrapper_opt_level": "O1",
}


class _Flat(nn.Module):
    """A layer as a function of tensors alone: those of its call, then its small ones."""

    def __init__(self, layer: nn.Module, call: Call, names: tuple[str, ...]) -> None:
        super().__init__()
        self._layer = [layer]  # not as a submodule, whose weights would be taken along
        self._leaves, self._spec = tree_flatten((call.args, call.kwargs))
        self._names = names

    def forward(self, *given: Tensor) -> Tensor:
        feed = iter(given)
        filled = [next(feed) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        args, kwargs = tree_unflatten(filled, self._spec)
        own = dict(zip(self._names, feed, strict=True))
        output: Tensor = torch.func.functional_call(self._layer[0], own, args, kwargs)
        return output


def compile_kind(layer: nn.Module, kind: Kind, target: Path) -> None:
    opaque = linears(layer)
    for which, group in enumerate(groups(layer, opaque)):
        parts = _call_back(which, [width(linear) for linear in group])
        for linear, part in zip(group, parts, strict=True):
            linear.forward = part
    own = small(layer, opaque)
    call = kind.calls[0]
    tokens = Dim("tokens", min=1, max=2**20)
    shapes = [dict.fromkeys(axes, tokens) for axes in varying(kind.calls)]
    given = tuple(one.contiguous() for one in tensors(call.args, call.kwargs))
    given += tuple(own[name] for name in kind.small)
    shapes += [{} for _ in kind.small]
    flat = _Flat(layer, call, kind.small)
    with torch.no_grad():
        program = export(flat, given, dynamic_shapes={"given": tuple(shapes)}, strict=False)
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(target), inductor_configs=_OPTIONS
        )


def _call_back(which: int, widths: list[int]) -> list[Any]:
    """The forwards of linear layers that are asked one after another for the same numbers."""
    made: list[Any] = [None, ()]  # of which numbers, and everybody's outputs

    def part(index: int, x: Tensor) -> Tensor:
        if made[0] is not x:
            product = torch.ops.steerdeck.linear(x, which, sum(widths))
            made[:] = x, torch.split(product, widths, -1)
        output: Tensor = made[1][index]
        return output

    return [partial(part, index) for index in range(len(widths))]


def main(folder: Path) -> None:
    job: Job = torch.load(folder / "job.pt", weights_only=False)
    register()
    AttentionInterface.register(NAME, traced_attention)
    with torch.device("meta"):
        model = job.model._from_config(job.config, dtype=job.dtype)
    model.eval().requires_grad_(False).set_attn_implementation(NAME)
    layers = decoder_layers(model)
    for kind in job.kinds:
        layer = layers[kind.layer].to_empty(device="cpu")
        making = folder / f"making-{kind.key}.pt2"
        compile_kind(layer, kind, making)
        making.rename(folder / f"{kind.key}.pt2")


if __name__ == "__main__":
    os.nice(10)
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
