"""What feature steering is measured against: a difference of means, and a system prompt."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..edits import Op
from ..errors import DictionaryError
from .causes import system_cause
from .feed import limit_of, usual
from .forced import Teacher
from .gauge import Replies, Trial
from .handles import Handle
from .neutral import said
from .rounds import Steps
from .sheets import Corpus, Pair, Sheet
from .subject import Message, Subject
from .tried import Table

_CALM = 400  # everyday replies whose mean is taken away
_REACHES = (0.15, 0.25, 0.4, 0.6, 0.9)  # lengths of a residual at which a vector is tried


def check_calm(corpus: Corpus, sheets: Sequence[Sheet]) -> None:
    """Raise DictionaryError where there are means, and nothing to take away from them."""
    if any(sheet.drift for sheet in sheets) and not corpus.general:
        raise DictionaryError(
            "the sheets' folder holds no calm text, without which a concept's mean reply is no "
            'difference of means: give it everyday pairs of "u" and "a", as a list in a file '
            "_general_01.json."
        )


class Means:
    """Directions [d_in], length 1: a concept's mean residual in its replies, less that of calm
    ones (contrastive activation addition, arXiv 2312.06681). Attention sinks have no part in it.
    """

    def __init__(self, subject: Subject, teacher: Teacher, corpus: Corpus, *, seed: int) -> None:
        self._subject, self._teacher = subject, teacher
        general = corpus.general
        calm = random.Random(seed).sample(general, min(_CALM, len(general)))
        residuals = self._residuals(calm)
        first = list(islice(residuals, 1))
        self._limit = limit_of(first[0]) if first else float("inf")
        self._calm = self._mean(chain(first, residuals))

    def of(self, sheet: Sheet) -> Tensor:
        """Of a sheet with drift: any other has no replies of its own."""
        return normalize(self._mean(self._residuals(sheet.drift)) - self._calm, dim=-1)

    def _mean(self, residuals: Iterable[Tensor]) -> Tensor:
        """[d_in] on the CPU, over the tokens of all batches."""
        total, tokens = torch.zeros(self._subject.d_in), 0
        for x in residuals:
            x = x[usual(x, self._limit)]
            total += x.sum(0).cpu()
            tokens += len(x)
        return total / max(1, tokens)

    def _residuals(self, pairs: Sequence[Pair]) -> Iterator[Tensor]:
        """[n, d_in] of the replies' tokens, a batch at a time."""
        rows = [self._teacher.spoken(said(pair.user), pair.reply) for pair in pairs]
        for which, forced in self._teacher.batches(rows):
            x = self._subject.residual(forced.windows)
            own = torch.zeros(x.shape[:2], dtype=torch.bool)
            for at, i in enumerate(which):
                own[at, : len(rows[i].reply)] = torch.tensor(rows[i].reply)
            if own.any():
                yield x[own.to(x.device)]


def best_push(handle: Handle) -> Steps[Replies]:
    """The strength of a vector: where it shows most while fluent, the two best asked once more.
    Where nothing is sound, the weakest.
    """
    table = Table()
    first: list[Replies] = yield [Trial(handle, Op.ADD, reach, 1) for reach in _REACHES]
    table.add(first)
    table.add((yield [Trial(handle, r.op, r.strength, 2) for r in table.finalists()]))
    return table.best(Op.ADD) or first[0]


def under(system: str, prompt: str) -> tuple[Message, ...]:
    return {"role": "system", "content": system}, *said(prompt)


def causes(sheet: Sheet, n: int, *, seed: int) -> list[str]:
    """n system prompts under which the concept comes on."""
    rng = random.Random(f"{seed}/{sheet.slug}")
    return [system_cause(sheet, rng) for _ in range(n)]
