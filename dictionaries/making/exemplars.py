"""Texts to show for each feature: the strongest, and one from each interval of activation below.

A document counts once for a feature: by its strongest token. Kept are

- the STRONGEST documents that differ in the tokens up to the peak (a corpus repeats itself),
- for each dyadic interval of activation, one document drawn at random among all whose peak lies in
  it: each document's draw is a hash of its number, the feature and the seed, and the largest wins,
  so the choice depends neither on the order nor on how often the work was interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import dyadic
from .firings import Fired, Ints, Peaks, Text, activations, peaks

STRONGEST, INTERVALS = 6, 8
BEFORE, AFTER = 14, 8  # tokens kept around a peak
WIDTH = BEFORE + 1 + AFTER
_SLOTS = STRONGEST + INTERVALS
_ALIKE = 8  # documents whose last so many tokens up to the peak agree are taken for the same

Hashes = npt.NDArray[np.uint64]

SPEC: dict[str, tuple[Any, tuple[int, ...]]] = {
    "slot_value": (np.float32, (_SLOTS,)),  # of the peak; 0: nothing is kept here
    "slot_document": (np.int64, (_SLOTS,)),
    "slot_context": (np.uint64, (_SLOTS,)),  # hash of the tokens up to the peak
    "slot_draw": (np.uint64, (_SLOTS,)),
    "slot_peak": (np.int8, (_SLOTS,)),  # where in the window it is
    "slot_length": (np.int8, (_SLOTS,)),
    "slot_ids": (np.int32, (_SLOTS, WIDTH)),  # ~id where the text was broken before the token
    "slot_values": (np.float32, (_SLOTS, WIDTH)),
}


class Exemplar(NamedTuple):
    """ids, values: [length] of the window. interval: (low, high) of where its peak was sought."""

    ids: Ints
    broken: npt.NDArray[np.bool_]  # [length]: a break in the text before the token
    values: npt.NDArray[np.float32]
    peak: int  # its place in the window
    document: int
    interval: tuple[float, float]


class Exemplars:
    """The slots of all features: STRONGEST in no order, then one for each interval."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]], *, seed: int) -> None:
        """arrays: those of SPEC, with a leading axis of features."""
        self._slots = {name.removeprefix("slot_"): array for name, array in arrays.items()}
        self._seed = seed

    def widen(self, feature: Ints, octaves: Ints) -> None:
        """Join neighbouring intervals of features whose maximum has outgrown them."""
        for step in range(min(int(octaves.max()), dyadic.joins(INTERVALS))):
            which = feature[octaves > step]
            draw = self._slots["draw"][which, STRONGEST:].reshape(-1, INTERVALS // 2, 2)
            winner = draw.argmax(-1) + 2 * np.arange(INTERVALS // 2)
            order = np.concatenate([winner, winner], axis=1) + STRONGEST
            for array in self._slots.values():
                moved = array[which[:, None], order]
                moved[:, INTERVALS // 2 :] = 0
                array[which, STRONGEST:] = moved

    def add(
        self, fired: Fired, text: Text, document: int, maximum: npt.NDArray[np.float32]
    ) -> None:
        """document: number of the batch's first row. maximum: [d_sae], this batch included."""
        found = peaks(fired, text)
        context = _contexts(text, found)
        draw = _draws(found.feature, document + found.row, self._seed)
        into: list[tuple[Ints, Ints]] = []  # (peak, slot's place in the file)
        for row in range(text.rows):
            of_row = (found.row == row).nonzero()[0]
            for accept in (self._strongest, self._drawn):
                at, slot = accept(found, of_row, context, draw, maximum)
                feature = found.feature[at]
                self._slots["value"][feature, slot] = found.value[at]
                self._slots["document"][feature, slot] = document + row
                self._slots["context"][feature, slot] = context[at]
                self._slots["draw"][feature, slot] = draw[at]
                into.append((at, feature * _SLOTS + slot))
        self._write_windows(fired, text, found, into)

    def _strongest(self, found: Peaks, at: Ints, context: Hashes, *_: object) -> tuple[Ints, Ints]:
        """The weakest slot gives way, or the one that holds the same text."""
        feature, value = found.feature[at], found.value[at]
        held = self._slots["value"][feature, :STRONGEST]
        alike = self._slots["context"][feature, :STRONGEST] == context[at, None]
        alike &= held > 0
        slot = np.where(alike.any(1), alike.argmax(1), held.argmin(1))
        better = value > held[np.arange(len(at)), slot]
        return at[better], slot[better]

    def _drawn(
        self,
        found: Peaks,
        at: Ints,
        _: Hashes,
        draw: Hashes,
        maximum: npt.NDArray[np.float32],
    ) -> tuple[Ints, Ints]:
        feature = found.feature[at]
        slot = STRONGEST + dyadic.bin_of(found.value[at], maximum[feature], INTERVALS)
        better = draw[at] > self._slots["draw"][feature, slot]
        return at[better], slot[better]

    def _write_windows(
        self, fired: Fired, text: Text, found: Peaks, into: list[tuple[Ints, Ints]]
    ) -> None:
        """Only what is still in its slot at the batch's end is copied out of the text."""
        at = np.concatenate([peak for peak, _ in into])[::-1]
        place, last = np.unique(np.concatenate([p for _, p in into])[::-1], return_index=True)
        at = at[last]
        feature, slot = np.divmod(place, _SLOTS)
        start = np.maximum(text.first[found.row[at]], found.token[at] - BEFORE)
        stop = np.minimum(text.first[found.row[at] + 1], found.token[at] + AFTER + 1)
        token = start[:, None] + np.arange(WIDTH)
        inside = token < stop[:, None]
        token = np.where(inside, token, len(text.ids))  # no token: fires for nothing
        ids = np.where(text.broken, ~text.ids, text.ids)
        self._slots["ids"][feature, slot] = np.append(ids, 0)[token]
        self._slots["values"][feature, slot] = activations(fired, text, found.feature[at], token)
        self._slots["peak"][feature, slot] = found.token[at] - start
        self._slots["length"][feature, slot] = stop - start

    def of(self, feature: int, maximum: float) -> list[Exemplar]:
        """Strongest first; then those drawn, from the highest interval down, without repeats."""
        held = {name: array[feature] for name, array in self._slots.items()}
        strongest = np.argsort(-held["value"][:STRONGEST], kind="stable")
        strongest = strongest[held["value"][strongest] > 0]
        low, wide = float(held["value"][strongest].min()), dyadic.width(maximum, INTERVALS)
        shown = [(int(slot), (low, maximum)) for slot in strongest]
        same = list(zip(held["context"].tolist(), held["value"].tolist(), strict=True))
        seen = {same[slot] for slot in strongest}
        for interval in reversed(range(INTERVALS)):
            slot = STRONGEST + interval
            if held["value"][slot] > 0 and same[slot] not in seen:
                shown.append((slot, (interval * wide, min(maximum, (interval + 1) * wide))))
        return [_exemplar(held, slot, interval) for slot, interval in shown]


def _exemplar(
    held: Mapping[str, npt.NDArray[Any]], slot: int, interval: tuple[float, float]
) -> Exemplar:
    ids = held["ids"][slot, : held["length"][slot]].astype(np.int64)
    return Exemplar(
        ids=np.where(ids < 0, ~ids, ids),
        broken=ids < 0,
        values=held["values"][slot, : len(ids)].copy(),
        peak=int(held["peak"][slot]),
        document=int(held["document"][slot]),
        interval=interval,
    )


def _contexts(text: Text, found: Peaks) -> Hashes:
    """A hash of each peak's last tokens, itself included, within its row."""
    token = found.token[:, None] - np.arange(_ALIKE)
    inside = token >= text.first[found.row][:, None]
    ids = np.where(inside, text.ids[np.maximum(token, 0)] + 1, 0).astype(np.uint64)
    mixed = np.zeros(len(ids), np.uint64)
    for column in ids.T:
        mixed = _mix(mixed ^ column)
    return mixed


def _draws(feature: Ints, document: Ints, seed: int) -> Hashes:
    """A random number for each pair; never 0, which is an empty slot's."""
    mixed = _mix(feature.astype(np.uint64) ^ np.uint64(seed % 2**64))
    return _mix(mixed ^ document.astype(np.uint64)) | np.uint64(1)


def _mix(x: Hashes) -> Hashes:
    """The finaliser of splitmix64: every bit of x changes half of the bits of the result."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
