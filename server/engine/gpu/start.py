"""What a runner does with a GPU at start: it fuses parts of layers, and proves a captured step."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from ..agreement import FLOAT32, ROUNDED, apart
from ..attention import SlotStep
from ..batch import Batch
from ..cache import SlotCache
from ..steering import Steerer
from .capture import CudaCapture
from .graphs import Capture, Graphs

log = logging.getLogger("steerdeck.engine")


def few_steps(logits: Callable[[Batch], object], rows: int) -> None:
    """Some tokens of at most two rows, without a prompt; the rows are to be cleared."""
    rows = min(2, rows)
    for positions in ([0, 0], [1, 1], [2, 2], [3, 1]):
        logits(Batch(0, [5, 9][:rows], positions[:rows], [True] * rows, ()))


def capturing(
    wanted: bool | Capture,
    logits: Callable[[Batch], Tensor],
    forward: Callable[[SlotStep, Tensor, Tensor], Tensor],
    steerer: Steerer,
    cache: SlotCache,
    device: torch.device,
) -> Graphs | None:
    """What captures decode steps; None if a captured one does not give what `logits` gives, or
    there is nothing to capture on. wanted: whether on a GPU, or by what, anywhere.
    """
    if not wanted or (wanted is True and device.type != "cuda"):
        return None
    rows = min(2, cache.rows)
    batch = Batch(0, [3, 10][:rows], [1, 0][:rows], [True] * rows, ())
    try:
        capture = wanted if callable(wanted) else CudaCapture(device)
        made = Graphs(forward, steerer, cache, device, capture)
        plain = logits(batch)
        expected, rounded = list(plain.float()), plain.dtype != torch.float32
        most = ROUNDED if rounded else FLOAT32
        for _ in range(3):  # as it is, captured, and again
            got = made.logits(batch)
            gap = 0.0 if got is None else apart(expected, list(got), together=rounded)
            if not gap <= most:
                raise RuntimeError(f"a captured step differs by {gap:.3g} times its logits' spread")
    except Exception as error:
        log.warning("decode steps run without CUDA graphs: %s", error or type(error).__name__)
        return None
    finally:
        for row in range(rows):
            cache.clear(row, 2)
    return made if made.on else None
