"""The seam between HTTP and the model: what any engine promises."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from .types import Event, Request, Steering


class Generation(Protocol):
    """One reply on its way. Iterating ends after exactly one Finish or Failure."""

    id: str

    def __aiter__(self) -> AsyncIterator[Event]: ...
    def cancel(self) -> None:
        """Idempotent; frees the slot before the next step and delivers Finish(CANCELLED)."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this engine can do, for /v1/capabilities."""

    device: str
    dtype: str
    max_rows: int
    max_waiting: int
    max_context: int
    max_edits: int
    layers: int
    d_model: int
    vocab_size: int
    thinks: bool = False  # whether the model marks thinking blocks
    no_vectors: str = ""  # a sentence: why requests may bring none; empty: they may
    prefix_bytes: int = 0  # of keys and values kept beyond a reply, and the positions they are
    prefix_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Stats:
    """A reading of the engine for /metrics: rows that are computed and that are waited for, and
    the positions that are kept for prompts to come.
    """

    running: int
    waiting: int
    alive: bool
    cached: int = 0


class Engine(Protocol):
    """One model, its dictionaries, and the replies that run on it."""

    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def compilation(self) -> str:
        """Whether layers run compiled: off, running (not yet), on or failed."""

    def check(self, request: Request) -> None:
        """Raise what `submit` would for this request's content, without queueing it."""

    def submit(self, request: Request) -> Generation:
        """Queue it, from a running event loop.

        Raises Busy (429), TooLong (413), Unsteerable (400) or EngineDead (503): now or not at all.
        """

    def submit_all(self, requests: Sequence[Request]) -> Sequence[Generation]:
        """Queue all of them, as `submit` does, or none.

        A prompt that several of them have, edited alike, is computed once.
        """

    def steer(self, generation_id: str, steering: Steering) -> int:
        """Change the edits of a running reply; returns the generated token from which it holds.

        Raises UnknownGeneration (404) or Unsteerable (400, nothing is changed).
        """

    def drop(self, generation_id: str) -> None:
        """Stop it before the next step. Raises UnknownGeneration (404) if it does not run."""

    def stats(self) -> Stats: ...
    def close(self) -> None:
        """End every reply with a Failure, and join the engine thread when its step is done."""
