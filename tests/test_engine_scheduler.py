"""Policy without torch: rows stay compact, arrival order holds, nobody starves or is lost."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from server.engine.scheduler import Scheduler, Step, Ticket
from server.errors import Busy

ROWS, WAITING, CHUNK = 4, 3, 8


class Rows(RuleBasedStateMachine):
    """Arrivals, steps and departures in any order, with a store that follows every Move."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler: Scheduler[Ticket] = Scheduler(ROWS, WAITING, CHUNK)
        self.living: list[Ticket] = []
        self.store: dict[int, Ticket] = {}  # what lies in each row
        self.beside: dict[Ticket, Ticket] = {}  # the paced ticket of one that leads

    @rule(length=st.integers(1, 20), beside=st.booleans())
    def arrive(self, length: int, beside: bool) -> None:
        group = [Ticket(length)] + [Ticket(length, paced=True)] * beside
        if len(self.living) + len(group) > ROWS + WAITING:
            with pytest.raises(Busy):
                self.scheduler.add(group)
        else:
            self.scheduler.add(group)
            self.living += group
            if beside:
                self.beside[group[0]] = group[1]

    @rule(length=st.integers(1, 20), heirs=st.integers(1, 2))
    def arrive_with_one_prompt(self, length: int, heirs: int) -> None:
        source = Ticket(length, shared=True)
        group = [source, *(Ticket(length, source=source) for _ in range(heirs))]
        if len(self.living) + len(group) <= ROWS + WAITING:
            self.scheduler.add(*([ticket] for ticket in group))
            self.living += group

    @rule(data=st.data())
    def steer_before_the_prompt_is_computed(self, data: st.DataObject) -> None:
        fresh = [ticket for ticket in self.living if ticket.done < ticket.length]
        if fresh:
            self.scheduler.part(data.draw(st.sampled_from(fresh)))

    @rule()
    def step(self) -> None:
        before = {ticket: ticket.done for ticket in self.living}
        step = self.scheduler.next_step()
        running = self.scheduler.running
        leading = [chunk for chunk in step.chunks if not running[chunk.row].paced]
        assert sum(chunk.stop - chunk.start for chunk in leading) <= CHUNK
        for chunk in step.chunks:
            ticket = self.scheduler.running[chunk.row]
            assert chunk.row >= step.decoding
            assert chunk.start == before[ticket] < chunk.stop <= ticket.length
            self.store[chunk.row] = ticket
            ticket.done = chunk.stop
        for row in step.heirs:
            ticket = running[row]
            assert ticket.source is not None
            assert ticket.source.shared
            assert ticket.source.row >= 0
            assert ticket.source.done == ticket.length
            self.store[row] = ticket
            ticket.done, ticket.source = ticket.length, None
        self.scheduler.settle()
        if self.living:
            assert step.decoding or step.chunks or step.heirs, "there is work, but none is done"

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.living:
            leading = [ticket for ticket in self.living if not ticket.paced]
            lead = data.draw(st.sampled_from(leading))
            for ticket in filter(None, (lead, self.beside.get(lead))):
                moves = self.scheduler.leave(ticket)
                for source, target in moves:
                    self.store[target] = self.store[source]
                self.living.remove(ticket)
                assert ticket.row == -1

    @invariant()
    def what_is_paced_keeps_step(self) -> None:
        for lead, ticket in self.beside.items():
            assert (ticket.done, ticket.row < 0) == (lead.done, lead.row < 0)

    @invariant()
    def nobody_is_lost_and_arrival_order_holds(self) -> None:
        running = self.scheduler.running
        waiting = [ticket for group in self.scheduler.waiting for ticket in group]
        assert set(running) | set(waiting) == set(self.living)
        assert len(running) + len(waiting) == len(self.living)
        assert len(waiting) == self.scheduler.queued
        rank = {ticket: i for i, ticket in enumerate(self.living)}
        unfinished = [*running[self.scheduler.decoding :], *waiting]
        assert unfinished == sorted(unfinished, key=rank.__getitem__)
        free = ROWS - len(running)
        assert self.scheduler.coming == sum(1 for t in running if t.done < t.length) + min(
            len(waiting), free
        )

    @invariant()
    def rows_are_compact_and_hold_what_they_should(self) -> None:
        running, decoding = self.scheduler.running, self.scheduler.decoding
        assert len(running) <= ROWS
        for row, ticket in enumerate(running):
            assert ticket.row == row
            assert (ticket.done == ticket.length) == (row < decoding)
            if ticket.done:
                assert self.store[row] is ticket


TestRows = Rows.TestCase
TestRows.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_long_prompt_holds_the_others_up_by_one_chunk_a_step() -> None:
    scheduler: Scheduler[Ticket] = Scheduler(4, 4, CHUNK)
    talking, long, short = Ticket(2), Ticket(3 * CHUNK), Ticket(2)
    scheduler.add([talking])
    scheduler.next_step()
    talking.done = 2
    scheduler.settle()
    scheduler.add([long])
    scheduler.add([short])
    for i in range(3):
        step = scheduler.next_step()
        assert step.decoding == 1
        assert step.chunks == ((1, i * CHUNK, (i + 1) * CHUNK),)
        long.done += CHUNK
        scheduler.settle()
    assert scheduler.next_step().chunks == ((2, 0, 2),)


def test_short_prompts_share_a_step() -> None:
    scheduler: Scheduler[Ticket] = Scheduler(8, 8, CHUNK)
    for _ in range(4):
        scheduler.add([Ticket(3)])
    assert scheduler.next_step().chunks == ((0, 0, 3), (1, 0, 3), (2, 0, 2))


def run(scheduler: Scheduler[Ticket], step: Step) -> None:
    for chunk in step.chunks:
        scheduler.running[chunk.row].done = chunk.stop
    for row in step.heirs:
        heir = scheduler.running[row]
        heir.done, heir.source = heir.length, None
    scheduler.settle()


def test_a_heir_does_not_begin_to_talk_behind_a_prompt_that_is_not_finished() -> None:
    scheduler: Scheduler[Ticket] = Scheduler(4, 4, CHUNK)
    source, long = Ticket(CHUNK, shared=True), Ticket(3 * CHUNK)
    heir = Ticket(CHUNK, source=source)
    scheduler.add([source], [long], [heir])
    for _ in range(4):
        step = scheduler.next_step()
        assert step.heirs == ()
        run(scheduler, step)
    assert scheduler.next_step().heirs == (heir.row,) == (2,)


def test_a_step_copies_no_more_of_a_prompt_than_running_replies_can_bear() -> None:
    for length, at_once in ((100, 7), (1000, 2), (5000, 1)):
        scheduler: Scheduler[Ticket] = Scheduler(8, 8, 5000)
        source = Ticket(length, shared=True)
        scheduler.add([source], *([Ticket(length, source=source)] for _ in range(7)))
        run(scheduler, scheduler.next_step())
        left = 7
        while left:
            step = scheduler.next_step()
            assert len(step.heirs) == min(left, at_once)
            left -= len(step.heirs)
            run(scheduler, step)


def test_the_refusal_of_a_full_queue_says_how_full() -> None:
    scheduler: Scheduler[Ticket] = Scheduler(1, 1, CHUNK)
    scheduler.add([Ticket(1)])
    scheduler.add([Ticket(1)])
    with pytest.raises(Busy, match=r"All 1 rows are taken and 1 more") as refused:
        scheduler.add([Ticket(1)])
    assert refused.value.retry_after
