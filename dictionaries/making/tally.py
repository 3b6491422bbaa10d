"""What a corpus says of each feature: how often and how strongly it fires, and on which texts.

Everything here is exact, is the same whatever the order of the texts (up to ties), and lies on
disk: RAM does not grow with the corpus or with the dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..card import Histogram
from . import dyadic
from .arrays import Arrays
from .exemplars import SPEC, Exemplars
from .firings import Fired, Ints, Text

BINS = 32  # dyadic ones


class Tally:
    """The statistics of all d_sae features, kept in a folder; see `Arrays` for how they survive."""

    def __init__(self, folder: Path, d_sae: int, *, seed: int = 0) -> None:
        spec: dict[str, tuple[Any, tuple[int, ...]]] = {
            "fired": (np.int64, (d_sae,)),
            "maximum": (np.float32, (d_sae,)),
            "counts": (np.int64, (d_sae, BINS)),
        }
        spec |= {name: (dtype, (d_sae, *shape)) for name, (dtype, shape) in SPEC.items()}
        self._arrays = Arrays(folder, spec)
        self.fired: npt.NDArray[np.int64] = self._arrays["fired"]  # [d_sae], content tokens
        self.maximum: npt.NDArray[np.float32] = self._arrays["maximum"]  # [d_sae]
        self.counts: npt.NDArray[np.int64] = self._arrays["counts"]  # [d_sae, BINS]
        self.exemplars = Exemplars({name: self._arrays[name] for name in SPEC}, seed=seed)

    @property
    def state(self) -> Mapping[str, Any]:
        """What the last `keep` was told; empty at first."""
        return self._arrays.state

    @property
    def live(self) -> int:
        """How many features have fired."""
        return int((self.fired > 0).sum())

    def keep(self, state: Mapping[str, Any]) -> None:
        self._arrays.keep(state)

    def add(self, fired: Fired, text: Text, document: int) -> None:
        """One block of features on one batch; document: the number of its first row, from 0."""
        if not len(fired.feature):
            return
        feature, first = np.unique(fired.feature, return_index=True)
        n = np.diff(np.append(first, len(fired.feature)))
        before = self.maximum[feature]
        after = np.maximum(before, np.maximum.reduceat(fired.value, first))
        grown = np.where(before > 0, dyadic.octave(after) - dyadic.octave(before), 0)
        self._widen(feature, grown)
        self.exemplars.widen(feature, grown)
        self.maximum[feature] = after
        self.fired[feature] += n
        at = dyadic.bin_of(fired.value, np.repeat(after, n), BINS)
        cell, counts = np.unique(fired.feature * BINS + at, return_counts=True)
        self.counts.reshape(-1)[cell] += counts
        self.exemplars.add(fired, text, document, self.maximum)

    def _widen(self, feature: Ints, octaves: Ints) -> None:
        for step in range(min(int(octaves.max()), dyadic.joins(BINS))):
            which = feature[octaves > step]
            joined = self.counts[which].reshape(-1, BINS // 2, 2).sum(-1)
            self.counts[which] = np.concatenate([joined, np.zeros_like(joined)], axis=1)

    def histogram(self, feature: int) -> Histogram:
        """Of a feature that fired: the bins up to its maximum, which is the last edge."""
        maximum = float(self.maximum[feature])
        used = int(dyadic.bin_of(maximum, maximum, BINS)) + 1
        width = dyadic.width(maximum, BINS)
        edges = (*(i * width for i in range(used)), maximum)
        return Histogram(edges, tuple(self.counts[feature, :used].tolist()))
