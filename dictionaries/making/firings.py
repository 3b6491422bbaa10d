"""Which features fire on a batch of text, and how strongly: sparse, and sorted by feature.

Only content tokens count. BOS and template tokens have residuals many times longer than any word's,
and would own every maximum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..dictionary import Dictionary
from .subject import Subject, Windows

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Text(NamedTuple):
    """The content tokens of a batch, row after row.

    ids: [n]. broken: bool [n], where something that is no content stood before the token.
    first: [rows + 1], where each row begins; a row is a document.
    """

    ids: Ints
    broken: npt.NDArray[np.bool_]
    first: Ints

    @property
    def rows(self) -> int:
        return len(self.first) - 1


class Fired(NamedTuple):
    """Every nonzero activation of some features, sorted by feature, then token.

    feature: ids [n]. token: [n], counted along the batch's `Text`. value: [n].
    """

    feature: Ints
    token: Ints
    value: Floats


class Peaks(NamedTuple):
    """The strongest firing of each feature in each row where it fires; earlier ones win ties."""

    feature: Ints
    row: Ints
    token: Ints
    value: Floats


def text_of(windows: Windows) -> Text:
    keep = (windows.content & windows.attended).cpu().numpy()
    row, column = keep.nonzero()
    first = np.concatenate([[0], keep.sum(1).cumsum()])
    broken = np.zeros(len(row), bool)
    broken[1:] = (np.diff(column) != 1) & (np.diff(row) == 0)
    return Text(windows.ids.cpu().numpy()[keep], broken, first)


def firings(subject: Subject, dictionary: Dictionary, windows: Windows) -> Iterator[Fired]:
    """One `Fired` for each block of the dictionary's features; together they are all of them.

    Memory: one block's activations on the batch, however wide the dictionary is.
    """
    x = subject.residual(windows)
    keep = (windows.content & windows.attended).to(x.device)
    if not keep.any():
        return
    for start, f in dictionary.encoded(x[keep]):
        yield sparse(f, start)


def sparse(f: Tensor, start: int = 0) -> Fired:
    """f: [tokens, features] float32; start: the id of the first of these features."""
    by_feature = f.T
    feature, token = by_feature.nonzero(as_tuple=True)
    value = by_feature[feature, token]
    return Fired((feature + start).cpu().numpy(), token.cpu().numpy(), value.cpu().numpy())


def peaks(fired: Fired, text: Text) -> Peaks:
    if not len(fired.feature):
        return Peaks(fired.feature, fired.feature, fired.token, fired.value)
    row = np.searchsorted(text.first, fired.token, side="right") - 1
    new = np.ones(len(row), bool)
    new[1:] = (np.diff(fired.feature) != 0) | (np.diff(row) != 0)
    group = new.cumsum() - 1
    top = np.maximum.reduceat(fired.value, new.nonzero()[0])
    highest = (fired.value == top[group]).nonzero()[0]
    at = highest[np.unique(group[highest], return_index=True)[1]]
    return Peaks(fired.feature[at], row[at], fired.token[at], fired.value[at])


def activations(fired: Fired, text: Text, feature: Ints, token: Ints) -> Floats:
    """What each feature [k] does on tokens [k, width]: 0 where it does not fire."""
    if not len(fired.feature):
        return np.zeros(token.shape, np.float32)
    width = len(text.ids) + 1
    key = fired.feature * width + fired.token
    wanted = feature[:, None] * width + token
    at = np.searchsorted(key, wanted).clip(max=len(key) - 1)
    return np.where(key[at] == wanted, fired.value[at], np.float32(0))
