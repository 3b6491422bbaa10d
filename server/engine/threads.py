"""How many threads a decode step runs fastest on, measured where it will run.

More is not always faster: at every operator of torch's the others must be woken, some 0.1 ms where
waiting threads sleep (OMP_WAIT_POLICY=PASSIVE), and a small model's whole matrix product takes
less. Our own code wakes them once for many layers; then processors that others use decide.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

log = logging.getLogger("steerdeck.engine")

_ROUNDS = 5
_LONG = 0.25  # seconds: a step of a model so large that every thread pays


def fastest(step: Callable[[], object], most: int) -> int:
    """The number of threads, from `most` down by halves to 1, with the shortest step.

    Leaves torch set to it. Candidates take turns, so that a busy moment hits them all.
    """
    counts = [most]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    if len(counts) == 1 or _seconds(step, most) > _LONG:
        torch.set_num_threads(most)
        return most
    for count in counts:
        _seconds(step, count)  # its threads start, its buffers grow
    best = dict.fromkeys(counts, float("inf"))
    for _ in range(_ROUNDS):
        for count in counts:
            best[count] = min(best[count], _seconds(step, count))
    chosen = min(counts, key=lambda count: best[count])
    torch.set_num_threads(chosen)
    took = ", ".join(f"{count}: {1000 * best[count]:.1f}" for count in reversed(counts))
    log.info("a step runs on %d of %d threads (ms by threads: %s)", chosen, most, took)
    return chosen


def _seconds(step: Callable[[], object], count: int) -> float:
    torch.set_num_threads(count)
    began = time.perf_counter()
    step()
    return time.perf_counter() - began
