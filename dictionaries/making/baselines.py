"""What feature steering is measured against: a difference of means, and a system prompt."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..edits import Op
from ..errors import DictionaryError
from .causes import system_cause
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
    ones (contrastive activation addition, arXiv 2312.06681).
    """

    def __init__(self, subject: Subject, teacher: Teacher, corpus: Corpus, *, seed: int) -> None:
        self._subject, self._teacher = subject, teacher
        calm = corpus.general
        self._calm = self._mean(random.Random(seed).sample(calm, min(_CALM, len(calm))))

    def of(self, sheet: Sheet) -> Tensor:
        """Of a sheet with drift: any other has no replies of its own."""
        return normalize(self._mean(sheet.drift) - self._calm, dim=-1)

    def _mean(self, pairs: Sequence[Pair]) -> Tensor:
        """On the CPU, over the replies' tokens."""
        rows = [self._teacher.spoken(said(pair.user), pair.reply) for pair in pairs]
        total, tokens = torch.zeros(self._subject.d_in), 0
        for which, forced in self._teacher.batches(rows):
            x = self._subject.residual(forced.windows)
            own = torch.zeros(x.shape[:2], dtype=torch.bool)
            for at, i in enumerate(which):
                own[at, : len(rows[i].reply)] = torch.tensor(rows[i].reply)
            total += x[own.to(x.device)].sum(0).cpu()
            tokens += int(own.sum())
        return total / max(1, tokens)


def best_push(handle: Handle) -> Steps[Replies]:
    """The strength of a vector, chosen as a feature's is: where it shows most while fluent, the
    two best asked once more. Where nothing is sound, the weakest.
    """
    table = Table()
    first: list[Replies] = yield [Trial(handle, Op.ADD, reach, 1) for reach in _REACHES]
    table.add(first)
    table.add((yield [Trial(handle, r.op, r.strength, 2) for r in table.finalists()]))
    return table.best(Op.ADD) or first[0]


def under(system: str, prompt: str, teacher: Teacher) -> tuple[Message, ...]:
    """The prompt with a system prompt, or after it where the chat template knows none."""
    messages: tuple[Message, ...] = ({"role": "system", "content": system}, *said(prompt))
    return messages if teacher.accepts(messages) else said(f"{system}\n\n{prompt}")


def causes(sheet: Sheet, n: int, *, seed: int) -> list[str]:
    """n system prompts under which the concept comes on."""
    rng = random.Random(f"{seed}/{sheet.slug}")
    return [system_cause(sheet, rng) for _ in range(n)]
