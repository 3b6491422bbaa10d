"""What making needs of a running model. Handed in by the command line: this room has no engine.

`server.subject` builds one from any transformers decoder and the site of a dictionary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor

from ..dictionary import Site
from ..edits import EditTable, FeatureRows, Op

Message = dict[Literal["role", "content"], str]


class Windows(NamedTuple):
    """Token ids ready for a forward pass.

    ids: int64 [rows, tokens], padded on the right. attended: bool, False on padding.
    content: bool, True on tokens that people wrote: neither padding, special, nor template.
    """

    ids: Tensor
    attended: Tensor
    content: Tensor


class Prompt(NamedTuple):
    """A conversation up to where the reply begins. content: True on tokens that people wrote."""

    ids: list[int]
    content: list[bool]


class Change(NamedTuple):
    """An edit a row: features [rows, 1, ..] and table [rows, 1, 1] as dictionaries.edits takes
    them. It acts on content tokens.
    """

    features: FeatureRows
    table: EditTable


class Subject(Protocol):
    """A model and the place in it where a dictionary reads. Everything in float32, no gradients."""

    @property
    def tokenizer(self) -> Any: ...

    @property
    def site(self) -> Site: ...

    @property
    def d_in(self) -> int:
        """Numbers of the residual (or head outputs) at the site."""
        ...

    def prompt(self, messages: Sequence[Message]) -> Prompt | None:
        """As a Speaker asks; None where the chat template refuses the messages."""
        ...

    def residual(self, windows: Windows) -> Tensor:
        """[rows, tokens, d_in] at the site; later layers are not run where that can be helped."""
        ...

    def logits(self, windows: Windows, change: Change | None = None) -> Tensor:
        """[rows, tokens, vocab]: of the next token, at every position."""
        ...

    def lens(self, directions: Tensor) -> Tensor:
        """Logit lens of [n, d_model]: [n, vocab] through the final norm's gain and the unembedding.

        The norm's division is left out (it scales all tokens alike); centred over the vocabulary.
        """
        ...


@dataclass(frozen=True, slots=True)
class Edited:
    """An edit in activations. vector: a direction to add instead of a feature (then op is ADD)."""

    feature: int
    op: Op
    strength: float
    vector: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """A conversation to answer, and under which edits."""

    messages: tuple[Message, ...]
    edits: tuple[Edited, ...] = ()
    seed: int = 0
    max_tokens: int = 40
    temperature: float = 0.7
    top_p: float = 0.9


class Speaker(Protocol):
    """Answers through the engine, as many at once as it has rows."""

    def __call__(self, asks: Sequence[Ask]) -> list[str]:
        """One reply an ask, in order; the same asks get the same replies."""
        ...
