"""A conversation that begins anew: by the button, or because its server has forgotten the tab."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import ui_service
from ui_service import SHORT, Service, deafened, handlers

from ui import rack, talking
from ui.session import Session

CHOSEN = SHORT.model_dump()
service = ui_service.service  # fixture


def begun(log: str) -> float:
    return float(json.loads(log.split("\n")[0])["begun"])


@pytest.mark.parametrize("service", [{"rate": 0.2}], indirect=True)
async def test_nothing_of_a_reply_that_would_not_stop_stands_in_the_new_conversation(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first line would be of no turn, and the page could not take it away again."""
    reply = await deafened(service, monkeypatch)
    do = handlers(service.api)
    old = service.session.transcript.turns[-1].replies["steered"]
    cleared = (await do.fresh(service.session))[do.parts.thread]
    assert (await reply)[-1] == cleared
    service.session.transcript.mark(old, 3, "off", "off", ())  # a change that was under way
    assert service.session.transcript.lines == []


async def test_a_tab_that_was_forgotten_begins_after_the_conversation_it_shows(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page leaves out what is older than what it shows; every tab is a copy of one session."""
    monkeypatch.setattr(talking, "ARRIVAL", 0.01)
    do, first = handlers(service.api), Session()
    known = copy.deepcopy(first)
    shown: dict[Any, Any] = await do.fresh(known)
    asked = do.ask("Hi", copy.deepcopy(first), rack.value(()), CHOSEN, False, False, None)
    logs = [update[do.parts.thread] async for update in asked if do.parts.thread in update]
    assert begun(logs[-1]) > begun(shown[do.parts.thread])
