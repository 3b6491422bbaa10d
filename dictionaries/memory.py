"""How much of a device's memory one thing may take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

# What a container may take, by either version of Linux's control groups.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def room(device: torch.device) -> int:
    """Bytes: half of what the device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 2
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([host, *_limits()]) // 2


def _limits() -> Iterator[int]:
    """A container sees all of its host's memory, and is killed for taking more than its own."""
    for path in _LIMITS:
        with suppress(OSError, ValueError):  # of another version, or "max": no limit
            yield int(Path(path).read_text())
