"""What is known of one feature: a plain value, checked when it is made."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from .edits import Op
from .errors import DictionaryError

_SLUG = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")  # a letter somewhere: "12" is an id


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of the nonzero activations between neighbouring edges (one edge more than counts)."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A stretch of corpus text, token by token, with the activation on each token.

    interval: (low, high), the activations that its peak was looked for among; None: unknown.
    """

    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """One feature's card. None means "not measured", never zero.

    Raises DictionaryError for a value that no feature can have; the message names the feature.
    """

    feature: int
    label: str
    slug: str | None = None  # unique exact name in words-with-hyphens: "golden-gate-bridge"
    density: float | None = None  # fraction of content tokens it fires on
    maximum: float | None = None  # largest activation over the corpus: the unit of strength
    histogram: Histogram | None = None
    promoted: tuple[tuple[str, float], ...] = ()  # logit lens: token text, logit; largest first
    suppressed: tuple[tuple[str, float], ...] = ()  # smallest first
    examples: tuple[Example, ...] = ()  # best first
    onset: float | None = None  # the safe band, in multiples of the maximum: effect begins ..
    breakdown: float | None = None  # .. and text falls apart
    op: str | None = None  # what to do with it, and how much, in multiples of the maximum
    strength: float | None = None
    output_score: float | None = None  # 0 to 1: `making.output_score`
    neighbours: tuple[tuple[int, float], ...] = ()  # feature, cosine of the decoder rows
    labelled_by: str | None = None  # "concept", "tokens" or the name of a language model

    def __post_init__(self) -> None:
        if not 0 <= self.feature < 2**62:
            raise DictionaryError(f"a card's feature is an id from 0 up, not {self.feature}.")
        if self.slug is not None and not _SLUG.fullmatch(self.slug):
            self._refuse(
                f"the slug {self.slug!r} must be small letters and digits joined by single "
                "hyphens, with at least one letter, such as 'golden-gate-bridge'"
            )
        if self.op is not None and self.op not in list(Op):
            self._refuse(f"the op {self.op!r} is not one of {', '.join(Op)}")
        for word in ("density", "output_score"):
            value = getattr(self, word)
            if value is not None and not 0 <= value <= 1:
                self._refuse(f"the {word} {value} is not a fraction from 0 to 1")
        for word in ("maximum", "onset", "breakdown", "strength"):
            value = getattr(self, word)
            if value is not None and not math.isfinite(value):
                self._refuse(f"the {word} is {value}, not a finite number")
        self._check_parts()

    def _check_parts(self) -> None:
        h = self.histogram
        if h is not None and len(h.edges) != len(h.counts) + 1:
            self._refuse(f"{len(h.counts)} histogram counts need {len(h.counts) + 1} edges")
        for e in self.examples:
            if len(e.tokens) != len(e.activations):
                self._refuse(
                    f"an example has {len(e.tokens)} tokens but {len(e.activations)} activations"
                )
        logits = [logit for _, logit in (*self.promoted, *self.suppressed)]
        numbers: Iterable[float] = (
            *logits,
            *(h.edges if h else ()),
            *(a for e in self.examples for a in (*e.activations, *(e.interval or ()))),
            *(cosine for _, cosine in self.neighbours),
        )
        if not all(map(math.isfinite, numbers)):
            self._refuse("a logit, edge, activation or cosine is not a finite number")

    def _refuse(self, why: str) -> None:
        raise DictionaryError(f"the card of feature {self.feature} was refused: {why}.")

    @property
    def steerability(self) -> float | None:
        """Width of the safe band; 0 where only a recommended strength is known; None otherwise."""
        if self.onset is not None and self.breakdown is not None:
            return self.breakdown - self.onset
        return None if self.strength is None else 0.0
