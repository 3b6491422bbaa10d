"""What the real engine cannot be made to do: fall silent, or raise where it should speak.

The engine here is a script of events, behind the real jobs, writers and streams.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from server.completions import ChatWriter
from server.engine.types import (
    Delta,
    Failure,
    Finish,
    FinishReason,
    Request,
    Sampling,
    Steering,
    Token,
)
from server.errors import GenerationFailed
from server.jobs import Job, merged
from server.metrics import Metrics
from server.prepare import Ask
from server.steering import Resolved
from server.stream import events

WORD = Delta("word ", (Token(1, "word "),))
END = Finish(FinishReason.STOP, 2, 1, 0, ())


class Scripted:
    """A generation that says what it is told to; an exception is raised."""

    def __init__(self, *script):
        self.id, self.script, self.cancelled = "x", script, 0

    async def __aiter__(self):
        for event in self.script:
            await asyncio.sleep(0)
            if isinstance(event, Exception):
                raise event
            yield event

    def cancel(self):
        self.cancelled += 1


def job(deck, *generations, metrics=None):
    made = (Request("x", (1, 2), (True, True), Sampling()),) * len(generations)
    ask = Ask("x", 1, "tiny", made, Resolved(Steering(), {}))
    return Job(ask, deck, metrics or Metrics(), generations)


async def told(job):
    return [e["data"] async for e in events(ChatWriter(job))]


@pytest.mark.parametrize(
    "rows",
    [
        [Scripted(WORD)],
        [Scripted()],
        [Scripted(WORD, Failure("out of luck"))],
        [Scripted(WORD, RuntimeError("a bug"))],
        [Scripted(WORD, END), Scripted(WORD)],
        [Scripted(WORD, END), Scripted(WORD, Failure("out of luck"))],
        [Scripted(WORD, END), Scripted(WORD, RuntimeError("a bug"))],
    ],
)
async def test_whatever_goes_wrong_the_stream_ends_in_one_error(live, rows):
    said = await told(job(live.service.deck, *rows))
    assert "[DONE]" not in said
    errors = [json.loads(data)["error"] for data in said if '"error"' in data]
    assert len(errors) == 1
    assert '"error"' in said[-1]
    assert errors[0]["code"] == "generation_failed"
    assert all(row.cancelled for row in rows)


async def test_a_good_end_is_no_error(live):
    rows = Scripted(WORD, END), Scripted(WORD, WORD, Delta("held back", ()), END)
    said = await told(job(live.service.deck, *rows))
    assert said[-1] == "[DONE]"
    assert not any('"error"' in data for data in said)


async def test_a_stream_that_nobody_reads_on_lets_go_of_its_rows(live):
    row, metrics = Scripted(WORD, WORD, END), Metrics()
    stream = events(ChatWriter(job(live.service.deck, row, metrics=metrics)))
    async for _ in stream:
        break
    assert row.cancelled == 0
    await stream.aclose()
    assert row.cancelled == 1
    page = metrics.page(None)
    assert b'steerdeck_cancelled_total{by="hung_up"} 1.0' in page
    assert b'steerdeck_replies_total{reason="cancelled"} 1.0' in page


async def test_a_hang_up_is_counted_once_and_by_who_did_it(live):
    row, metrics = Scripted(WORD, replace(END, reason=FinishReason.CANCELLED)), Metrics()
    cut = job(live.service.deck, row, metrics=metrics)
    async for _ in cut.events():
        if not cut.released:
            cut.hung_up()
            cut.release()
    page = metrics.page(None)
    assert b'steerdeck_cancelled_total{by="hung_up"} 1.0' in page
    assert b'by="asked"' not in page
    assert b'steerdeck_replies_total{reason="cancelled"} 1.0' in page


async def test_rows_are_merged_as_they_come():
    rows = Scripted(WORD, END), Scripted(WORD, WORD, END)
    seen = [item async for item in merged(rows)]
    assert [event for row, event in seen if row == 0] == [WORD, END]
    assert [event for row, event in seen if row == 1] == [WORD, WORD, END]
    assert {row for row, _ in seen[:2]} == {0, 1}


async def test_a_failed_reply_in_one_piece_raises(live):
    broken = job(live.service.deck, Scripted(WORD, Failure("out of luck")))
    with pytest.raises(GenerationFailed, match="out of luck"):
        async for _ in broken.events():
            pass
