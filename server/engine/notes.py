"""What is noted of a prompt while it is computed, chunk by chunk, for the end of its reply."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .decoding import Vocabulary
from .sampling import Choice
from .telling import told
from .types import Request, Token


class Notes:
    """Begun anew where a prompt is computed anew."""

    def __init__(self, request: Request, vocabulary: Vocabulary) -> None:
        self._request, self._vocabulary = request, vocabulary
        self._observed: list[Tensor] = []
        self._scored: list[Token] = []  # of the prompt's tokens from the second on

    def take(self, observed: Tensor | None, scores: Sequence[Choice]) -> None:
        """Of the next chunk, where either is wanted."""
        if observed is not None:
            self._observed.append(observed)
        self._scored += map(self._told, scores)

    @property
    def observed(self) -> Tensor | None:
        """[prompt tokens, d_in]; None where it was not asked for."""
        return torch.cat(self._observed) if self._observed else None

    @property
    def prompt(self) -> tuple[Token, ...]:
        """Its tokens, where they are to be told: those that were not scored, as the first never
        is, without a log probability.
        """
        if not self._request.echo:
            return ()
        first, *rest = (self._told(Choice(token)) for token in self._request.prompt)
        return (first, *self._scored, *rest[len(self._scored) :])

    def _told(self, choice: Choice) -> Token:
        return told(self._vocabulary, choice, (), None)
