"""Who computes what in the next step. Policy only: no torch, no clock, no thread.

Replies that decode sit in rows 0..decoding-1 without a hole, so that every tensor of the step is a
view. Behind them come the replies whose prompt is not finished, in order of arrival. A step takes
one token of every decoding row and up to `chunk` prompt tokens, first come first served: a long
prompt never holds the others up for more than one chunk.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from ..errors import Busy


@dataclass(eq=False)
class Ticket:
    """What the scheduler knows of a reply: prompt tokens in all, and those already computed."""

    length: int
    done: int = 0
    row: int = -1  # -1 while it waits


class Chunk(NamedTuple):
    """Prompt positions start..stop-1 of the reply in `row`."""

    row: int
    start: int
    stop: int


class Move(NamedTuple):
    """A reply changed rows; whatever is stored for it must follow, in the order given."""

    source: int
    target: int


class Step(NamedTuple):
    """Rows 0..decoding-1 make one token each, and these chunks of prompts are computed."""

    decoding: int
    chunks: tuple[Chunk, ...]


T = TypeVar("T", bound=Ticket)


class Scheduler(Generic[T]):
    def __init__(self, max_rows: int, max_waiting: int, chunk: int) -> None:
        self.max_rows = max_rows
        self.max_waiting = max_waiting
        self.chunk = chunk
        self.waiting: deque[T] = deque()
        self.running: list[T] = []  # index = row
        self.decoding = 0

    def add(self, ticket: T) -> None:
        """Queue it, or raise Busy."""
        if len(self.running) + len(self.waiting) >= self.max_rows + self.max_waiting:
            raise Busy(
                f"All {self.max_rows} rows are taken and {self.max_waiting} more requests wait, "
                "which is as many as may: try again in a moment."
            )
        self.waiting.append(ticket)

    def next_step(self) -> Step:
        """Give rows to those who wait and say what is next; an empty step if there is no work."""
        budget = self.chunk
        chunks: list[Chunk] = []
        for ticket in self.running[self.decoding :]:
            budget -= self._take(ticket, budget, chunks)
        while budget > 0 and self.waiting and len(self.running) < self.max_rows:
            ticket = self.waiting.popleft()
            ticket.row = len(self.running)
            self.running.append(ticket)
            budget -= self._take(ticket, budget, chunks)
        return Step(self.decoding, tuple(chunks))

    def _take(self, ticket: T, budget: int, chunks: list[Chunk]) -> int:
        taken = min(ticket.length - ticket.done, budget)
        if taken > 0:
            chunks.append(Chunk(ticket.row, ticket.done, ticket.done + taken))
        return taken

    def settle(self) -> None:
        """After a step, with every `done` up to date: finished prompts join the decoding rows."""
        while self.decoding < len(self.running):
            ticket = self.running[self.decoding]
            if ticket.done < ticket.length:
                return
            self.decoding += 1

    def leave(self, ticket: T) -> list[Move]:
        """Take it out, waiting or running, and close the hole."""
        if ticket.row < 0:
            self.waiting.remove(ticket)
            return []
        moves: list[Move] = []
        hole = ticket.row
        if hole < self.decoding:
            self.decoding -= 1
            if hole != self.decoding:
                moves.append(self._move(self.decoding, hole))
            hole = self.decoding
        moves += [self._move(row, row - 1) for row in range(hole + 1, len(self.running))]
        self.running.pop()
        ticket.row = -1
        return moves

    def _move(self, source: int, target: int) -> Move:
        self.running[target] = self.running[source]
        self.running[target].row = target
        return Move(source, target)
