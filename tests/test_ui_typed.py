"""Half a character, as a broken paste leaves it, is sent as the replacement character."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import ui_service
from ui_service import SHORT, Service, handlers

from ui.session import Session

service = ui_service.service  # fixture
TYPED, SENT = "Cats \ud83d and 😀\udc00", "Cats \ufffd and 😀\ufffd"


def event(**data: Any) -> Any:
    return SimpleNamespace(_data=data)


async def test_a_message_with_half_a_character_is_answered(service: Service) -> None:
    do, session, chosen = handlers(service.api), Session(), {**SHORT.model_dump(), "system": TYPED}
    await do.look_again(session, None, chosen)
    asked = do.ask(TYPED, session, [], chosen, False, False, None)
    log = [update async for update in asked][-1][do.parts.thread]
    [body] = service.script.bodies
    assert [message["content"] for message in body["messages"]] == [SENT, SENT]
    assert json.loads(log.splitlines()[-1])["reason"] == "length"


async def test_what_cannot_be_asked_comes_back_as_it_would_have_been_sent(service: Service) -> None:
    """Gradio can encode no half of a character either."""
    do, session = handlers(service.api), Session()
    session.arrived.set()
    asked = do.ask(TYPED, session, [], SHORT.model_dump(), False, False, None)
    [update] = [update async for update in asked]
    assert update[do.parts.toast]["unsaid"] == SENT


async def test_what_is_searched_exported_and_kept_is_whole_too(service: Service) -> None:
    do, session, chosen = handlers(service.api), Session(), SHORT.model_dump()
    await do.look_again(session, None, chosen)
    found = await do.find(event(q=TYPED, n=1), session, None, chosen)
    assert found[do.parts.search]["q"] == SENT
    assert "error" not in found[do.parts.search]
    (code,) = (await do.export(session, [], chosen, TYPED)).values()
    assert SENT in code["curl"]
    shown = await do.details(event(ref=TYPED), session, None, chosen)
    assert shown[do.parts.card]["ref"] == SENT
