"""Which features fire on a batch of text, and how strongly: sparse, and sorted by feature.

Only content tokens count, and of these only such as are no attention sinks (`feed.usual`). BOS,
template tokens and, of models that know no BOS, the first word of a text have residuals many times
longer than any other, and would own every maximum.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..dictionary import Dictionary
from .feed import limit_of, usual
from .subject import Subject, Windows

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_ENOUGH = 4096  # content tokens: in so many, however short the texts, first words are the fewest


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


def limited(subject: Subject, batches: Iterator[Windows]) -> tuple[float, Iterator[Windows]]:
    """The length from which a residual is a sink, by the first batches; and all the batches."""
    first: list[Windows] = []
    seen: list[Tensor] = []
    for batch in batches:
        first.append(batch)
        seen.append(_residuals(subject, batch))
        if sum(map(len, seen)) >= _ENOUGH:
            break
    x = torch.cat(seen) if seen else torch.empty(0, 1)
    return limit_of(x) if len(x) else float("inf"), chain(first, batches)


def firings(
    subject: Subject, dictionary: Dictionary, windows: Windows, limit: float
) -> Iterator[Fired]:
    """One `Fired` for each block of the dictionary's features; together they are all of them.

    limit: see `limited`. Memory: one block's activations on the batch, however wide the dictionary.
    """
    x = _residuals(subject, windows)
    words = usual(x, limit).nonzero()[:, 0]
    if not len(words):
        return
    token = words.cpu().numpy()
    for start, f in dictionary.encoded(x[words]):
        fired = sparse(f, start)
        yield fired._replace(token=token[fired.token])


def _residuals(subject: Subject, windows: Windows) -> Tensor:
    """Of the tokens of `text_of`."""
    x = subject.residual(windows)
    return x[(windows.content & windows.attended).to(x.device)]


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
