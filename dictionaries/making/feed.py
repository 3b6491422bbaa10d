"""Documents -> shuffled residuals to train on, round after round, in memory that does not grow.

A round fills a buffer with the residuals of the next rows of text and deals them out in random
order. Rounds depend on the seed and on where in the text they begin, and on nothing else: that
place is all that going on later needs.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DictionaryError
from .digest import digest
from .sources import Document
from .subject import Subject, Windows
from .text import pieces, shuffled, windows

log = logging.getLogger("steerdeck.making")

Text = Callable[[], Iterator[Document]]

HELD_OUT = 20  # about one document in so many is never trained on
SPLIT = f"the first and one in {HELD_OUT}, by content"  # how they are chosen
_AHEAD = 16  # batches whose rows are sorted by length together
_FAR = 10.0  # times the median length: an attention sink, not a word
_FINITE = (
    "Give --dtype bfloat16 or float32, in which numbers seldom overflow; where that is so already, "
    "the model's weights are damaged."
)
_MIXED = 256  # held-out pieces that change places; to find them, HELD_OUT times as many are read


@dataclass
class Place:
    """How far training has come in the text: passes over all of it, and batches of this one."""

    epoch: int = 0
    batches: int = 0
    rounds: int = 0


def held_out(text: Text, *, seed: int = 0) -> Iterator[Document]:
    """What is never trained on, in pieces and mixed: the first tokens are of many documents."""
    out = (document for out, document in _sides(text) if out)
    return shuffled(pieces(out), seed=seed, buffer=_MIXED)


def _sides(text: Text) -> Iterator[tuple[bool, Document]]:
    """Every document, and whether it is held out.

    Its content decides, not its place: sources take turns, and every twentieth document may be of
    the same one; and copies of a document are on one side. The first is held out, too, so that of
    a short text there is something to measure on.
    """
    first: Document | None = None
    for document in text():
        first = document if first is None else first
        yield document == first or int(digest(document), 16) % HELD_OUT == 0, document


def usual(x: Tensor, limit: float) -> Tensor:
    """Bool [n]: which of x [n, d_in] are no longer than `limit`.

    Some models rest their attention on the first token of a text, or on a full stop: its residual
    is a hundred times longer than any other, says nothing, and would be all that an SAE learns.
    """
    short: Tensor = x.norm(dim=-1) <= limit
    return short


def limit_of(x: Tensor) -> float:
    """For `usual`, of residuals x [n, d_in]; a stray one that overflowed does not count.

    Raises DictionaryError where most of them did.
    """
    length = x.norm(dim=-1)
    finite = length[length.isfinite()]
    if len(length) and 2 * len(finite) <= len(length):
        raise DictionaryError(
            f"{len(length) - len(finite):,} of the model's {len(length):,} residuals are not "
            f"finite. {_FINITE}"
        )
    return _FAR * float(finite.median())


class Feed:
    """The residuals of all documents but the held-out ones, over and over.

    size: content tokens of a round, and of the buffer; the text may hold fewer. rows: rows of
    `context` tokens in one forward pass.
    """

    def __init__(
        self, subject: Subject, text: Text, *, context: int, rows: int, size: int, seed: int
    ) -> None:
        self._subject, self._text = subject, text
        self._context, self._rows, self._size, self._seed = context, rows, size, seed
        self.limit: float | None = None  # of a residual's length; found in the first round
        self.place = Place()
        self._batches: Iterator[Windows] | None = None

    def round(
        self, most: int | None = None, *, told: Callable[[int], None] = lambda tokens: None
    ) -> Tensor:
        """[tokens, d_in] float32 in random order, on the model's device.

        most: tokens wanted, where that is less than a buffer. told: how many have been read so far.
        """
        x = self._filled(min(most or self._size, self._size), told)
        if self.limit is None:
            self.limit = limit_of(x)
            x = x[usual(x, self.limit)]
        draw = torch.Generator().manual_seed(self._seed * 1_000_003 + self.place.rounds)
        self.place.rounds += 1
        return x[torch.randperm(len(x), generator=draw).to(x.device)]

    def _filled(self, size: int, told: Callable[[int], None]) -> Tensor:
        store: Tensor | None = None
        at, useful = 0, self.place.epoch
        while at < size:
            batch = self.batch()
            if self.place.epoch > useful + 1:
                raise DictionaryError(
                    f"a pass over all of the text gave no residual to learn from. {_FINITE}"
                )
            x = self._subject.residual(batch)
            x = x[batch.content.to(x.device)]
            if self.limit is not None:
                x = x[usual(x, self.limit)]
            if store is None:
                store = x.new_empty(size, x.shape[-1])
            taken = x[: size - at]
            store[at : at + len(taken)] = taken
            at += len(taken)
            useful = self.place.epoch if len(taken) else useful
            told(at)
        assert store is not None
        return store

    def batch(self) -> Windows:
        """The next rows of text as they come."""
        if self._batches is None:
            self._batches = itertools.islice(self._pass(), self.place.batches, None)
        for batch in self._batches:
            self.place.batches += 1
            return batch
        if not self.place.batches:
            raise DictionaryError(
                "the text holds too little to train on: its first document and about one in "
                f"{HELD_OUT} of the others are kept to measure with. Give more, or divide it with "
                "blank lines."
            )
        self.place.epoch, self.place.batches, self._batches = self.place.epoch + 1, 0, None
        log.info("all of the text was read; pass %d begins", self.place.epoch + 1)
        return self.batch()

    def _pass(self) -> Iterator[Windows]:
        kept = (document for out, document in _sides(self._text) if not out)
        return windows(
            shuffled(pieces(kept), seed=self._seed * 1_000_003 + self.place.epoch),
            self._subject.tokenizer,
            context=self._context,
            rows=self._rows,
            rest=True,
            ahead=_AHEAD,
        )
