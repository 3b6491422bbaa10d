"""How a model calls one of its layers, seen in two passes, and which layers are of one kind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, eq=False)
class Call:
    """One call of `layer.forward`, and what came of it."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@dataclass(frozen=True, eq=False)
class Kind:
    """Layers with the same code: what the compiler needs to know of one of them.

    calls: with two different numbers of tokens. small: the names of the tensors that are handed to
    the code, all but the weights of linear layers.
    """

    key: str
    layer: int
    calls: tuple[Call, Call]
    small: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """What the compiler's process is handed: a model class, its config, a layer of every kind."""

    model: type[Any]
    config: Any
    dtype: torch.dtype
    kinds: tuple[Kind, ...]


class Uncompilable(Exception):
    """A layer that is called in a way compiled code cannot be."""


def leaves(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """Arguments one by one; those of a tuple (cosines and sines) as well."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, tuple | list):
            yield from value
        else:
            yield value


def tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    return [leaf for leaf in leaves(args, kwargs) if isinstance(leaf, Tensor)]


def varying(calls: tuple[Call, Call]) -> list[list[int]]:
    """For every tensor argument, the axes whose length is the number of tokens.

    Raises Uncompilable if the two calls differ in anything else.
    """
    one, two = (list(leaves(call.args, call.kwargs)) for call in calls)
    if len(one) != len(two):
        raise Uncompilable("its layers are called in different ways")
    found = []
    for a, b in zip(one, two, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.dim() == b.dim():
            found.append([i for i in range(a.dim()) if a.shape[i] != b.shape[i]])
        elif not isinstance(a, _PLAIN) or a != b:
            raise Uncompilable(f"its layers take a {type(a).__name__}")
    if not all(isinstance(call.output, Tensor) for call in calls):
        raise Uncompilable(f"its layers give a {type(calls[0].output).__name__}")
    return found


def small(layer: nn.Module, opaque: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers by name, but for those of the opaque modules."""
    hidden = {id(tensor) for module in opaque for tensor in module.parameters()}
    named = [*layer.named_parameters(), *layer.named_buffers()]
    return {name: tensor for name, tensor in named if id(tensor) not in hidden}


def kind_key(layer: nn.Module, calls: tuple[Call, Call], opaque: Sequence[nn.Module]) -> str:
    """Names the layer's code: equal for layers that differ in weights and number only."""
    told: list[Any] = []
    for name, module in layer.named_modules():
        plain = {
            k: v for k, v in vars(module).items() if k != "layer_idx" and isinstance(v, _PLAIN)
        }
        told.append((name, type(module).__qualname__, sorted(plain.items())))
    for name, tensor in small(layer, opaque).items():
        told.append((name, tuple(tensor.shape), tensor.dtype))
    for leaf in leaves(calls[0].args, calls[0].kwargs):
        told.append((tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf)
    return hashlib.blake2b(repr(told).encode(), digest_size=8).hexdigest()
