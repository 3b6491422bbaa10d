"""Who computes what in the next step. Policy only: no torch, no clock, no thread.

Replies that decode sit in rows 0..decoding-1 without a hole, so that every tensor of the step is a
view. Behind them come the replies whose prompt is not finished, in order of arrival. A step takes
one token of every decoding row and up to `chunk` prompt tokens, first come first served, of each
prompt no more than a full chunk: a long one never holds the others up for longer.

A reply may need more than one row. They arrive, wait and get their rows together, and a row that
is `paced` computes what the one before it computes, in the same step: a prompt is cut the same way
whether or not a row comes with it, at the price of a step with that many more prompt tokens.

A ticket with a `source` computes no prompt: it waits until that of the source is computed, and
takes it over in one step, once no prompt before its own is unfinished. If the source leaves before,
the first of its heirs takes its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from ..errors import Busy

_COPIED = 2048  # positions of prompts taken over in one step; one prompt, whatever it has


@dataclass(eq=False)
class Ticket:
    """What the scheduler knows of a row: prompt tokens in all, and those already computed."""

    length: int
    done: int = 0
    row: int = -1  # -1 while it waits
    paced: bool = False  # keeps step with the ticket it was added behind
    source: Ticket | None = None  # has the same prompt, and computes it for this one
    shared: bool = False  # is such a source


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
    """Rows 0..decoding-1 make one token each, and these chunks of prompts are computed.

    heirs: rows that take over their source's prompt.
    """

    decoding: int
    chunks: tuple[Chunk, ...]
    heirs: tuple[int, ...] = ()


T = TypeVar("T", bound=Ticket)


class Scheduler(Generic[T]):
    def __init__(self, max_rows: int, max_waiting: int, chunk: int) -> None:
        self.max_rows = max_rows
        self.max_waiting = max_waiting
        self.chunk = self._full = chunk
        self.waiting: deque[list[T]] = deque()  # groups that get their rows at once
        self.running: list[T] = []  # index = row
        self.decoding = 0
        # Told of a group that got rows for a prompt to compute, parts of which it may call `done`.
        self.admitted: Callable[[Sequence[T]], None] = lambda group: None

    @property
    def queued(self) -> int:
        """Rows that are waited for."""
        return sum(map(len, self.waiting))

    @property
    def coming(self) -> int:
        """Rows that do not decode yet: their prompt is not finished, or they wait and fit."""
        return min(len(self.running) + self.queued, self.max_rows) - self.decoding

    def add(self, *groups: Sequence[T]) -> None:
        """Queue them all, or raise Busy. A group gets its rows at once: at most `max_rows`."""
        wanted = sum(map(len, groups))
        taken, places = len(self.running) + self.queued, self.max_rows + self.max_waiting
        if taken >= places:
            raise Busy(
                f"All {self.max_rows} rows are taken and {self.max_waiting} more requests wait, "
                "which is as many as may: try again in a moment."
            )
        if taken + wanted > places:
            raise Busy(
                f"This request needs {wanted} rows, and of {places} to run and to wait in {taken} "
                "are taken: try again in a moment."
            )
        self.waiting += map(list, groups)

    def next_step(self) -> Step:
        """Give rows to those who wait and say what is next; an empty step if there is no work."""
        budget = self.chunk
        chunks: list[Chunk] = []
        heirs: list[int] = []
        for ticket in self.running[self.decoding :]:
            budget -= self._take(ticket, budget, chunks)
        while self.waiting:
            group, source = self.waiting[0], self.waiting[0][0].source
            if len(self.running) + len(group) > self.max_rows:
                break  # nobody overtakes a group, or it might wait for ever
            if budget <= 0 if source is None else not self._may_take_over(group, source, heirs):
                break
            self.waiting.popleft()
            for ticket in group:
                ticket.row = len(self.running)
                self.running.append(ticket)
            if source is not None:
                heirs += [ticket.row for ticket in group]
                continue
            self.admitted(group)
            for ticket in group:
                budget -= self._take(ticket, budget, chunks)
        return Step(self.decoding, tuple(chunks), tuple(heirs))

    def _may_take_over(self, group: Sequence[T], source: Ticket, heirs: Sequence[int]) -> bool:
        """Whether the prompt is there, no other is unfinished before it (rows that decode lie
        without a hole), and the step does not copy so much that running replies would notice.
        """
        copied = sum(self.running[row].length for row in heirs)
        return (
            source.done == source.length
            and len(self.running) == self.decoding + len(heirs)
            and (not heirs or copied + len(group) * source.length <= _COPIED)
        )

    def _take(self, ticket: T, budget: int, chunks: list[Chunk]) -> int:
        """Add the ticket's chunk, if it has one in this step; returns its tokens."""
        if ticket.paced:
            led = bool(chunks) and chunks[-1].row == ticket.row - 1
            if led:
                chunks.append(chunks[-1]._replace(row=ticket.row))
            return chunks[-1].stop - chunks[-1].start if led else 0
        taken = min(ticket.length - ticket.done, budget, self._full)
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

    def part(self, ticket: T) -> None:
        """It neither takes over a prompt nor leaves one: the first of its heirs computes theirs."""
        ticket.source = None
        heirs = [group[0] for group in self.waiting if group[0].source is ticket]
        for i, heir in enumerate(heirs):
            heir.source = heirs[0] if i else None
            heir.shared = i == 0 and len(heirs) > 1

    def leave(self, ticket: T) -> list[Move]:
        """Take it out, waiting or running, and close the hole."""
        self.part(ticket)
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
