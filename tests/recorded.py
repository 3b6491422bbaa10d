"""CUDA graphs without a GPU: a pass' operators are recorded, and replayed on the very tensors.

What a capture on a GPU forbids raises here as well: reading a number off the device, and making a
tensor of Python's numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READS = torch.ops.aten._local_scalar_dense.default
_MAKES = torch.ops.aten.lift_fresh.default


def _forbidden(*_: Any) -> Any:
    raise RuntimeError("operation not permitted when stream is capturing")


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (_READS, _MAKES):
            _forbidden()
        out = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, out))
        return out


class Recorded:
    """captures, replays: how many there were."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        with patch.object(Tensor, "tolist", _forbidden), _Recording() as recording:
            run()

        def replay() -> None:
            self.replays += 1
            with torch.no_grad():
                for func, args, kwargs, out in recording.done:
                    _rewrite(out, func(*args, **kwargs))

        return replay


def _rewrite(old: Any, new: Any) -> None:
    """What an operator gave lies where it lay; a view of it, or what it wrote to, does already."""
    for one, other in zip(tree_leaves(old), tree_leaves(new), strict=True):
        if isinstance(one, Tensor) and one.data_ptr() != other.data_ptr():
            one.copy_(other)
