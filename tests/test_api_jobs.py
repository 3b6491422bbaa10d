"""What the real engine cannot be made to do: fall silent, or raise where it should speak.

The engine here is a script of events, behind the real jobs, writers and streams.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from server.completions import ChatWriter
from server.engine.guard import Alarm, Mode, Signal
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
ALARM = Alarm(4, Signal.KL, 2.0, 1.0, Mode.WARN)
CUT = Finish(FinishReason.CANCELLED, 2, 5, 3, (), alarms=(ALARM,))


class Scripted:
    """A generation that says what it is told to, once; an exception is raised."""

    def __init__(self, *script):
        self.id, self.script, self.cancelled = "x", list(script), 0

    async def __aiter__(self):
        while self.script:
            await asyncio.sleep(0)
            event = self.script.pop(0)
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
    row, metrics = Scripted(WORD, WORD, CUT), Metrics()
    stream = events(ChatWriter(job(live.service.deck, row, metrics=metrics)))
    async for _ in stream:
        break
    assert row.cancelled == 0
    await stream.aclose()
    assert row.cancelled == 1
    assert b'steerdeck_cancelled_total{by="hung_up"} 1.0' in metrics.page(None)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("how", ["closed", "cancelled"])
async def test_what_a_hung_up_reader_did_not_hear_is_counted_all_the_same(live, rows, chunks, how):
    """chunks: that were read, of the opening's one a row and those after."""
    script = [WORD] * 4 + [replace(WORD, alarms=(ALARM,)), CUT]
    metrics, paused = Metrics(), asyncio.Event()
    cut = job(live.service.deck, *(Scripted(*script) for _ in range(rows)), metrics=metrics)
    stream = events(ChatWriter(cut))

    async def read():
        for _ in range(chunks):
            await anext(stream)
        paused.set()
        if how == "cancelled":
            async for _ in stream:
                pass

    reading = asyncio.create_task(read())
    await paused.wait()
    if how == "cancelled":
        reading.cancel()
    await asyncio.wait([reading])
    await stream.aclose()
    for _ in range(40):
        await asyncio.sleep(0)
    page = metrics.page(None).decode()
    for name, each in {
        "prompt_tokens_total": 2,
        "edited_tokens_total": 3,
        "generated_tokens_total": 5,
        'guard_alarms_total{action="warn",signal="kl"}': 1,
        'replies_total{reason="cancelled"}': 1,
    }.items():
        assert f"steerdeck_{name} {float(rows * each)}" in page, name


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


@pytest.mark.parametrize(
    ("variants", "named"),
    [((), "choice 1: out"), (("unsteered", "loud"), r"variant 1 \(loud\): out")],
)
async def test_a_failure_of_one_of_several_says_which(live, variants, named):
    broken = job(live.service.deck, Scripted(WORD), Scripted(WORD, Failure("out of luck")))
    broken.ask = replace(broken.ask, variants=variants)
    with pytest.raises(GenerationFailed, match=f"^{named} of luck"):
        async for _ in broken.events():
            pass


async def test_a_failed_reply_in_one_piece_raises(live):
    broken = job(live.service.deck, Scripted(WORD, Failure("out of luck")))
    with pytest.raises(GenerationFailed, match=r"^out of luck"):
        async for _ in broken.events():
            pass
