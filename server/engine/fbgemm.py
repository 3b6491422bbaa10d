"""FBGEMM, torch's library for products with weights that are packed in few bits, on x86."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def packing() -> Iterator[None]:
    """What is packed in here is packed for FBGEMM. Raises RuntimeError where there is none."""
    engine = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that quantized tensors are deprecated
        torch.backends.quantized.engine = "fbgemm"
        try:
            yield
        finally:
            torch.backends.quantized.engine = engine
