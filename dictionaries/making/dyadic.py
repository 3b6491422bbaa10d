"""Bins that can be widened without looking at the data again.

A feature whose maximum lies in [2^e / 2, 2^e) has `bins` bins of width 2^e / bins: at least half of
them are used. When a larger maximum raises e by one, neighbouring bins are joined, and what they
hold is what they would have held had the new maximum been known from the start.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def octave(maximum: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """e."""
    return np.frexp(maximum)[1].astype(np.int64)


def bin_of(value: npt.ArrayLike, maximum: npt.ArrayLike, bins: int) -> npt.NDArray[Any]:
    """Which of the bins, a power of two, each value up to the maximum is in. No rounding."""
    return np.floor(np.ldexp(value, bins.bit_length() - 1 - octave(maximum))).astype(np.int64)


def width(maximum: float, bins: int) -> float:
    return float(2.0 ** int(octave(maximum)) / bins)


def joins(bins: int) -> int:
    """After so many joins everything is in bin 0, and further ones change nothing."""
    return bins.bit_length() - 1
