"""What a stream is told of one token."""

from __future__ import annotations

from collections.abc import Sequence

from .contrast import Difference
from .decoding import Vocabulary
from .sampling import Choice
from .types import Contrast, Likely, Reading, Token


def told(
    vocabulary: Vocabulary,
    choice: Choice,
    readings: tuple[Reading, ...],
    difference: Difference | None,
) -> Token:
    """difference: from the unsteered model, where it was asked for."""

    def likely(found: Sequence[tuple[int, float]]) -> tuple[Likely, ...]:
        return tuple(
            Likely(i, vocabulary.text(i), vocabulary.bytes_of(i), logprob) for i, logprob in found
        )

    contrast = None
    if difference is not None:
        contrast = Contrast(
            difference.kl,
            difference.logprob,
            difference.unsteered_logprob,
            likely(difference.top),
            likely(difference.unsteered_top),
        )
    own = vocabulary.bytes_of(choice.token)
    text = own.decode("utf-8", "replace")
    return Token(choice.token, text, own, choice.logprob, likely(choice.top), readings, contrast)
