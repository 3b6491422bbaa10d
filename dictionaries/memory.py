"""How much of a device's memory one thing may take."""

from __future__ import annotations

import os

import torch


def room(device: torch.device) -> int:
    """Bytes: half of what the device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 2
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
