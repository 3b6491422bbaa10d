"""The tokens of one forward pass, laid out flat: one per decoding row, then chunks of prompts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A chunk of one prompt. `last`: the prompt ends with it, so a token is sampled from it.

    observed: the dictionary whose reading of these tokens is kept; empty for none.
    following: the tokens after each of these whose log probabilities are wanted, with those of the
    `likely` likeliest; empty for none. The prompt's last token has none after it.
    """

    row: int
    start: int  # position of its first token
    tokens: tuple[int, ...]
    steerable: tuple[bool, ...]
    last: bool
    observed: str = ""
    following: tuple[int, ...] = ()
    likely: int = 0

    @property
    def stop(self) -> int:
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows first..first+n-1 each feed their newest token, at `positions`; then come the spans.

    traced: somebody wants to see the activations. thinking: the decoding rows whose newest token is
    part of a thinking block; empty for none.
    """

    first: int
    tokens: list[int]
    positions: list[int]
    steerable: list[bool]
    spans: tuple[Span, ...]
    traced: bool = False
    thinking: tuple[bool, ...] = ()

    @property
    def rows(self) -> slice:
        """The decoding rows."""
        return slice(self.first, self.first + len(self.tokens))

    def offsets(self) -> list[int]:
        """Where each span begins in the flat tokens, and where the last one ends."""
        offsets = [len(self.tokens)]
        for span in self.spans:
            offsets.append(offsets[-1] + len(span.tokens))
        return offsets

    def sampled(self) -> list[int]:
        """Flat indices of the tokens whose logits are wanted: decoding rows, then last spans."""
        ends = self.offsets()[1:]
        last = [end - 1 for end, span in zip(ends, self.spans, strict=True) if span.last]
        return [*range(len(self.tokens)), *last]
