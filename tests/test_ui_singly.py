"""Each feature alone: the whole rack beside every feature of it, against a scripted service."""

from __future__ import annotations

import pytest
import ui_service
from ui_service import BRIDGE, SHORT, Service, handlers

from ui import chat, columns, rack, singly
from ui.errors import RackError
from ui.rack import Entry, Rack

service = ui_service.service  # fixture
CATS = Entry(feature="foghorn/1", label="cats", op="add", strength=1.0, colour=1)
OFF = Entry(feature="foghorn/2", on=False)


async def test_the_rack_and_each_feature_alone_answer_in_one_request(service: Service) -> None:
    held = (*BRIDGE, OFF, CATS)
    talk = columns.respond(service.api, service.session, "Hello", held, SHORT, singly.ways(held))
    assert [log async for log in talk]
    [body] = service.script.bodies
    bridge, cats = chat.steering(BRIDGE, keep_norm=False), chat.steering((CATS,), keep_norm=False)
    both = {"edits": bridge["edits"] + cats["edits"]}
    assert body["variants"] == [both, bridge, cats]
    assert body["seed"] == SHORT.seed
    titles = [line.get("title") for line in service.lines("reply")]
    assert titles == [None, "All together", "Golden Gate Bridge", "cats"]
    assert [end["reason"] for end in service.lines("end")] == ["length"] * 4
    await service.logs("And then?", held)
    told = service.script.bodies[1]["messages"][1]["content"]
    assert told == service.text(2), "the conversation goes on with all together"


@pytest.mark.parametrize(("many", "told"), [(0, "two"), (1, "two"), (16, "at most 15")])
async def test_too_few_or_too_many_features_are_told_before_anything_is_asked(
    service: Service, many: int, told: str
) -> None:
    held: Rack = (*(Entry(feature=f"a/{i}") for i in range(many)),)
    held = (*held, OFF) if many < rack.MOST else held
    with pytest.raises(RackError, match=told):
        singly.ways(held)
    assert not singly.able(held)
    service.session.arrived.set()
    do = handlers(service.api)
    around = (service.session, rack.value(held), SHORT.model_dump(), False, False, None, True)
    *_, update = [one async for one in do.ask("Hello", *around)]
    assert told in update[do.parts.toast]["text"]
    assert update[do.parts.toast]["unsaid"] == "Hello"
    assert not service.session.transcript.turns
    assert not service.script.bodies
