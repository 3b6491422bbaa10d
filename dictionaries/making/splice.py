"""How well an opened dictionary does on text it was not trained on, in the model and beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..dictionary import Dictionary
from ..errors import DictionaryError
from .end_to_end import Cost
from .feed import usual
from .forced import LOGIT_BYTES
from .subject import Subject, Windows

_LOSS_BYTES = 2**26  # of logits that are copied at once for their loss
_LOST = 1e-3  # nats a token: of less, any share that is recovered would be noise


class Spliceable(Subject, Protocol):
    """A Subject whose residual can be replaced, and which tells what that costs."""

    def spliced(self, windows: Windows, rebuilt: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits with x [n, d_in] of every content token replaced by `rebuilt(x)`, float32."""
        ...

    def costed(self, windows: Windows, keep: Callable[[Tensor], Tensor]) -> tuple[Tensor, Cost]:
        """x [n, d_in] float32 of the content tokens that `keep` says; what replacing it costs."""
        ...


@dataclass(frozen=True, slots=True)
class Measured:
    """Losses are nats a token, of predicting the content tokens."""

    tokens: int  # content tokens it was measured on
    fvu: float  # fraction of variance unexplained
    l0: float  # features a token
    dead: int  # features that never fired here
    left_out: float  # share of content tokens too long to be words (`feed.usual`): passed untouched
    loss: float
    loss_spliced: float  # with the reconstruction in the residual's place
    loss_ablated: float  # with the mean residual in its place
    loss_recovered: float | None  # 1: as good as the residual; 0: as its mean; None: both are


class _Tally:
    """Sums over tokens, in float64 on the CPU (Apple's GPU has none): what one pass of
    reconstructions is measured by.
    """

    def __init__(self, dictionary: Dictionary, limit: float) -> None:
        self.dictionary, self.limit = dictionary, limit
        self.tokens = self.seen = 0
        self.error = self.squares = self.fired = 0.0
        self.sum = torch.zeros(dictionary.info.d_in, dtype=torch.float64)
        self.ever = torch.zeros(dictionary.info.d_sae, dtype=torch.bool)

    def rebuilt(self, x: Tensor) -> Tensor:
        """x [n, d_in] -> its reconstruction, noted."""
        self.seen += len(x)
        keep = usual(x, self.limit)
        words = x[keep]
        f = self.dictionary.encode(words)
        made = self.dictionary.decode(f, words)
        self.tokens += len(words)
        wide = words.cpu().double()
        self.error += float((words - made).cpu().double().pow(2).sum())
        self.squares += float(wide.pow(2).sum())
        self.sum += wide.sum(0)
        self.fired += float((f > 0).sum())
        self.ever |= (f > 0).any(0).cpu()
        return x.masked_scatter(keep[:, None], made)

    @property
    def variance(self) -> float:
        return self.squares - float(self.sum.pow(2).sum()) / max(1, self.tokens)


def measure(
    subject: Spliceable,
    dictionary: Dictionary,
    batches: Iterable[Windows],
    *,
    mean: Tensor,
    limit: float,
    tokens: int,
    advance: Callable[[float, str], None] = lambda done, note: None,
) -> Measured:
    """Over about that many content tokens, three forward passes each.

    mean: [d_in], a typical residual. limit: of a residual's length, see `feed.usual`.
    Raises DictionaryError where there is no token to measure on.
    """
    tally = _Tally(dictionary, limit)
    losses, targets = torch.zeros(3, dtype=torch.float64), 0

    def ablated(x: Tensor) -> Tensor:
        return torch.where(usual(x, limit)[:, None], mean.to(x), x)

    for batch in batches:
        for few in _parts(batch, len(subject.tokenizer)):
            losses += torch.tensor(
                [
                    _loss(subject.logits(few), few),
                    _loss(subject.spliced(few, tally.rebuilt), few),
                    _loss(subject.spliced(few, ablated), few),
                ],
                dtype=torch.float64,
            )
        targets += int(batch.content[:, 1:].sum())
        advance(min(tally.seen, tokens), "")
        if tally.seen >= tokens:
            break
    if not tally.tokens or not targets:
        raise DictionaryError("no held-out token is left to measure on: give more text.")
    plain, spliced, without = (losses / targets).tolist()
    return Measured(
        tokens=tally.seen,
        fvu=tally.error / max(tally.variance, 1e-30),
        l0=tally.fired / tally.tokens,
        dead=int((~tally.ever).sum()),
        left_out=1 - tally.tokens / tally.seen,
        loss=plain,
        loss_spliced=spliced,
        loss_ablated=without,
        loss_recovered=_recovered(plain, spliced, without),
    )


def _recovered(plain: float, spliced: float, without: float) -> float | None:
    lost = without - plain
    return (without - spliced) / lost if lost > _LOST else None


def _parts(batch: Windows, vocab: int) -> Iterator[Windows]:
    """As many rows at a time as have logits in `LOGIT_BYTES`, one at least."""
    rows = max(1, LOGIT_BYTES // (4 * batch.ids.shape[1] * vocab))
    for at in range(0, len(batch.ids), rows):
        yield Windows(*(tensor[at : at + rows] for tensor in batch))


def _loss(logits: Tensor, batch: Windows) -> float:
    """Summed over the content tokens, each predicted from those before it; in pieces, since a long
    row's logits are large enough once.
    """
    total, most = 0.0, max(1, _LOSS_BYTES // (4 * logits.shape[-1]))
    for row, ids, content in zip(logits, batch.ids, batch.content, strict=True):
        wanted = ids[1:].to(row.device)
        for places in content[1:].to(row.device).nonzero()[:, 0].split(most):
            total += float(cross_entropy(row[places], wanted[places], reduction="sum"))
    return total
