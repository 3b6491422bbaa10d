"""Who computes what in the next step. Policy only: no torch, no clock, no thread.

Replies that decode sit in rows 0..decoding-1 without a hole, so that every tensor of the step is a
view. Behind them come the replies whose prompt is not finished, in order of arrival. A step takes
one token of every decoding row and up to `chunk` prompt tokens, first come first served: a long
prompt never holds the others up for more than one chunk.

A reply may need more than one row. They arrive, wait and get their rows together, and a row that
is `paced` computes what the one before it computes, in the same step: a prompt is cut the same way
whether or not a row comes with it, at the price of a step with that many more prompt tokens.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from ..errors import Busy


@dataclass(eq=False)
class Ticket:
    """What the scheduler knows of a row: prompt tokens in all, and those already computed."""

    length: int
    done: int = 0
    row: int = -1  # -1 while it waits
    paced: bool = False  # keeps step with the ticket it was added behind


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
        self.waiting: deque[list[T]] = deque()  # groups that get their rows at once
        self.running: list[T] = []  # index = row
        self.decoding = 0

    @property
    def queued(self) -> int:
        """Rows that are waited for."""
        return sum(map(len, self.waiting))

    def add(self, *tickets: T) -> None:
        """Queue them, to get rows together; or raise Busy. At most `max_rows` can ever run."""
        taken, places = len(self.running) + self.queued, self.max_rows + self.max_waiting
        if taken >= places:
            raise Busy(
                f"All {self.max_rows} rows are taken and {self.max_waiting} more requests wait, "
                "which is as many as may: try again in a moment."
            )
        if taken + len(tickets) > places:
            raise Busy(
                f"This reply needs {len(tickets)} rows, and of {places} to run and to wait in "
                f"{taken} are taken: try again in a moment."
            )
        self.waiting.append(list(tickets))

    def next_step(self) -> Step:
        """Give rows to those who wait and say what is next; an empty step if there is no work."""
        budget = self.chunk
        chunks: list[Chunk] = []
        for ticket in self.running[self.decoding :]:
            budget -= self._take(ticket, budget, chunks)
        while budget > 0 and self.waiting:
            if len(self.running) + len(self.waiting[0]) > self.max_rows:
                break  # nobody overtakes a group, or it might wait for ever
            for ticket in self.waiting.popleft():
                ticket.row = len(self.running)
                self.running.append(ticket)
                budget -= self._take(ticket, budget, chunks)
        return Step(self.decoding, tuple(chunks))

    def _take(self, ticket: T, budget: int, chunks: list[Chunk]) -> int:
        """Add the ticket's chunk, if it has one in this step; returns its tokens."""
        if ticket.paced:
            led = bool(chunks) and chunks[-1].row == ticket.row - 1
            if led:
                chunks.append(chunks[-1]._replace(row=ticket.row))
            return chunks[-1].stop - chunks[-1].start if led else 0
        taken = min(ticket.length - ticket.done, budget)
        if taken > 0:
            chunks.append(Chunk(ticket.row, ticket.done, ticket.done + taken))
        return max(taken, 0)

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
            group = next(group for group in self.waiting if ticket in group)
            group.remove(ticket)
            if not group:
                self.waiting.remove(group)
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
