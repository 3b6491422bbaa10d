"""A direction from two sets of texts: the difference of their mean residuals, its length kept.

That of contrastive activation addition (arXiv 2312.06681). Every fifth text is held out, to tell
how well the direction tells texts apart that it was not made of.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DictionaryError
from .feed import limit_of, usual
from .subject import Subject
from .text import windows

LEAST = 5  # texts of a side: of fewer none could be held out
_HELD_OUT = 5  # one in so many
_ROWS = 16
_ROUNDING = 1e-5  # of a residual's length: means closer than this are the same


class Side(NamedTuple):
    """How many held-out texts of one set lie on its side of the middle, of how many."""

    right: int
    of: int


class Difference(NamedTuple):
    """direction: float32 [d_in] on the CPU, as long as the means are apart. residual: the mean
    length of the residuals that it was made of.
    """

    direction: Tensor
    residual: float
    more: Side
    less: Side

    @property
    def accuracy(self) -> float:
        """Of both sides alike; guessing has 0.5."""
        return (self.more.right / self.more.of + self.less.right / self.less.of) / 2


class _Read(NamedTuple):
    """Of each text: its tokens' residuals summed [n, d_in], how many they are [n], and the sum of
    their lengths [n].
    """

    total: Tensor
    tokens: Tensor
    length: Tensor

    @property
    def mean(self) -> Tensor:
        """[d_in], every token counting the same."""
        return self.total.sum(0) / self.tokens.sum()

    def along(self, direction: Tensor) -> Tensor:
        """[n]: each text's mean residual . direction."""
        return (self.total @ direction) / self.tokens


def difference(
    subject: Subject, more: Sequence[str], less: Sequence[str], *, context: int, seed: int
) -> Difference:
    """From the texts of `less` to those of `more`, at the subject's site. Content tokens alone
    count, and no attention sinks; what is beyond `context` tokens of a text is left out.

    A held-out text is on the right side if its mean residual lies beyond the middle between the
    means of the other texts. Raises DictionaryError for fewer than `LEAST` different texts, for
    texts without a token to read, and for sets that are the same to the model.
    """
    reader = _Reader(subject, context)
    sides = [_dealt(texts, name, seed) for texts, name in ((more, "more"), (less, "less"))]
    (more_held, made_more), (less_held, made_less) = [map(reader, side) for side in sides]
    direction = made_more.mean - made_less.mean
    tokens = made_more.tokens.sum() + made_less.tokens.sum()
    length = float((made_more.length.sum() + made_less.length.sum()) / tokens)
    if not float(direction.norm()) > _ROUNDING * length:
        raise DictionaryError(
            "the texts of both sets have the same mean to this model: there is no direction from "
            "the ones to the others. Give texts that differ."
        )
    middle = (made_more.along(direction).mean() + made_less.along(direction).mean()) / 2
    told_more = more_held.along(direction) > middle
    told_less = less_held.along(direction) < middle
    return Difference(
        direction,
        length,
        Side(int(told_more.sum()), len(told_more)),
        Side(int(told_less.sum()), len(told_less)),
    )


def _dealt(texts: Sequence[str], name: str, seed: int) -> tuple[list[str], list[str]]:
    """(held out, the rest), each text once: a copy on the other side would be no test."""
    own = list(dict.fromkeys(texts))
    if len(own) < LEAST:
        raise DictionaryError(
            f"{len(own)} different texts came as --{name}: give {LEAST} or more, a line each, for "
            f"one in {_HELD_OUT} is held out."
        )
    random.Random(seed).shuffle(own)  # both alike: of sets in pairs, pairs are held out
    held = len(own) // _HELD_OUT
    return own[:held], own[held:]


class _Reader:
    """Texts -> what a model has for them at the site. The first batch says what is too long."""

    def __init__(self, subject: Subject, context: int) -> None:
        self._subject, self._context = subject, context
        self._limit: float | None = None

    def __call__(self, texts: Sequence[str]) -> _Read:
        """Texts of which no token is read are left out; raises DictionaryError if all are."""
        parts: list[_Read] = []
        made = windows(
            texts, self._subject.tokenizer, context=self._context, rows=_ROWS, ahead=len(texts)
        )
        for batch in made:
            x = self._subject.residual(batch)
            content = batch.content.to(x.device)
            if self._limit is None:
                self._limit = limit_of(x[content])
            kept = content & usual(x, self._limit)
            x = torch.where(kept[..., None], x, 0.0)
            one = _Read(x.sum(1), kept.sum(1), x.norm(dim=-1).sum(1))
            parts.append(_Read(*(column[one.tokens > 0].cpu() for column in one)))
        if not any(len(part.tokens) for part in parts):
            raise DictionaryError(
                "the model has no token of these texts that can be read: give longer ones."
            )
        return _Read(*(torch.cat(column) for column in zip(*parts, strict=True)))
