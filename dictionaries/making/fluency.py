"""How fluent a reply is, on a scale that the model itself sets.

Perplexity alone has no scale: a large model's salad is likelier than a small one's prose. So the
surprise of replies, in nats a token under the unsteered model, is put between that of the model's
own replies (1) and that of the same replies with half of their tokens shuffled (0). On foghorn 0.8
is as if every tenth token were out of place, 0.6 every fifth. Text that loops is ever less of a
surprise; whether a reply loops is seen from the reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

GARBLED = 0.5  # share of the tokens that are shuffled at the scale's end
LOOPING = 0.2  # share of token triples said before; in unsteered replies it is under 0.15
_LEAST_ROOM = 1.0  # nats from 1 to 0, for models that hardly mind the order of their tokens


class Nats(NamedTuple):
    """The surprise of a reply under the unsteered model, all its tokens together."""

    total: float
    tokens: int


class Scale(NamedTuple):
    """Nats a token of the model's own replies, and of the same half shuffled; and the share of its
    own that neither loop nor are empty: not all are, in small models.
    """

    own: float
    garbled: float
    sound: float

    def fluency(self, nats: float) -> float:
        """1: as its own replies, or more expected; 0: as garbled, or worse."""
        room = max(self.garbled - self.own, _LEAST_ROOM)
        return min(1.0, max(0.0, 1 - (nats - self.own) / room))


def pooled(nats: Sequence[Nats]) -> float:
    """Nats a token over all replies; 0 where nothing was said."""
    return sum(n.total for n in nats) / max(1, sum(n.tokens for n in nats))


def loops(ids: Sequence[int]) -> float:
    """0 for fresh text, towards 1 for a loop: the share of token triples that came before."""
    triples = list(zip(ids, ids[1:], ids[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if triples else 0.0


def harmonic(*values: float) -> float:
    """The harmonic mean; 0 if any value is 0."""
    return len(values) / sum(1 / v for v in values) if min(values) > 0 else 0.0
