"""Sweeps of the strength, against a scripted service on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import ui_service
from ui_service import BRIDGE, SHORT, Service

from ui import chat, columns, sweep
from ui.client import Api
from ui.errors import ApiError, RackError
from ui.rack import Entry, Rack

service = ui_service.service  # fixture


async def swept(service: Service, text: str = "Who are you?", held: Rack = BRIDGE) -> list[str]:
    ways = sweep.ways(held)
    talk = columns.respond(service.api, service.session, text, held, SHORT, ways)
    return [log async for log in talk]


async def test_a_sweep_answers_at_every_strength_in_one_request(service: Service) -> None:
    off = Entry(feature="foghorn/1", on=False)
    await swept(service, held=(*BRIDGE, off))
    [body] = service.script.bodies
    strengths = [[edit["strength"] for edit in one["edits"]] for one in body["variants"]]
    assert strengths == [[1.25], [2.5], [3.75], [5.0]]
    assert (body["seed"], body["messages"][-1]["content"]) == (7, "Who are you?")
    lanes = [line["lane"] for line in service.lines("reply")]
    assert lanes == ["plain", "half", "steered", "more", "double"]
    assert [service.text(i).split()[3] for i in range(1, 6)] == ["small", "small", *["bridge"] * 3]
    ends = service.lines("end")
    assert [(end["reason"], end["tokens"]) for end in ends] == [("length", 12)] * 5
    edits = [json.loads(end["receipt"])["edits"] for end in ends]
    assert edits == [[], *(one["edits"] for one in body["variants"])]
    await service.logs("And then?", BRIDGE)
    told = service.script.bodies[1]["messages"][1]["content"]
    assert told == service.text(3), "the conversation goes on with the rack as it stands"


async def test_the_guard_watches_a_sweep_too(service: Service) -> None:
    guarded = SHORT.model_copy(update={"guard": True})
    ways = sweep.ways(BRIDGE)
    talk = columns.respond(service.api, service.session, "Hello", BRIDGE, guarded, ways)
    [_ async for _ in talk]
    assert service.script.bodies[0]["steering"]["guard"] == {"mode": "back_off"}


async def test_a_sweep_that_fails_says_so_in_every_column(service: Service) -> None:
    await swept(service, "please fail")
    assert [end["error"] for end in service.lines("end")] == ["out of memory"] * 5
    assert service.session.live is None


@pytest.mark.parametrize("service", [{"rate": 20.0}], indirect=True)
async def test_a_sweep_is_stopped_as_one_and_does_not_follow_the_rack(service: Service) -> None:
    ways = sweep.ways(BRIDGE)
    talk = columns.respond(service.api, service.session, "Hello", BRIDGE, SHORT, ways)
    async for _ in talk:
        if service.text():
            down = (BRIDGE[0].model_copy(update={"strength": 0.5}),)
            assert not await chat.retune(service.api, service.session, down, keep_norm=False)
            stopping = asyncio.create_task(chat.stop(service.api, service.session))
            await asyncio.sleep(0)
    await stopping
    assert [end["reason"] for end in service.lines("end")] == ["cancelled"] * 5
    assert not service.script.live


async def test_a_column_of_a_sweep_ends_with_its_own_finish(service: Service) -> None:
    """However the stream goes on: its rate is its own, and a later break is no error of it."""
    finish = {"choices": [{"delta": {}, "finish_reason": "stop"}], "variant": {"index": 1}}

    class Short(Api):
        async def compare(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
            yield {"choices": [{"delta": {"content": "Fog"}}], "variant": {"index": 1}}
            yield finish
            await asyncio.sleep(0.3)
            raise ApiError("The connection broke in the middle of the reply.")

    ways = sweep.ways(BRIDGE)
    talk = columns.respond(Short("http://stub"), service.session, "Hello", BRIDGE, SHORT, ways)
    async for _ in talk:
        pass
    own, *others = service.lines("end")
    assert (own["r"], own["reason"], own["tokens"]) == (2, "stop", 1)
    assert own["seconds"] < 0.2
    assert "error" not in own
    assert [end["reason"] for end in others] == ["error"] * 4


@pytest.mark.parametrize(
    "held", [(), (Entry(feature="foghorn/1", op="ablate"), Entry(feature="a", op="at_most"))]
)
def test_a_sweep_without_a_strength_is_refused(held: Rack) -> None:
    with pytest.raises(RackError, match="has a strength"):
        sweep.ways(held)


def test_a_sweep_scales_from_where_an_op_changes_nothing() -> None:
    held = (Entry(feature="a", op="scale", strength=3.0), Entry(feature="b", op="add", strength=-2))
    assert [one.strength for one in sweep.scaled(held, 0.5)] == [2.0, -1.0]


def test_a_sweep_leaves_a_cap_as_it_is() -> None:
    """Half of it would hold the feature down harder, under the heading “Half as strong”."""
    held = (Entry(feature="a", op="at_most", strength=3.0),)
    assert [one.strength for one in sweep.scaled(held, 0.5)] == [3.0]
