"""A tab opens: the first look at the service, a key, a link, and what was asked before that."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import ui_service
from ui_service import SHORT, Service, handlers

from ui import presets, search, status
from ui.client import Api
from ui.errors import ApiError
from ui.session import Session

service = ui_service.service  # fixture


async def test_nobody_at_the_address_is_said_with_the_address() -> None:
    api = Api("http://127.0.0.1:9")
    look = await status.look(api, Session())
    await api.close()
    assert look.state == "unreachable"
    assert "http://127.0.0.1:9" in look.text


@pytest.mark.parametrize("service", [{"loading": 60.0}], indirect=True)
async def test_a_model_that_loads_is_said_with_its_stage(service: Service) -> None:
    look = await status.look(service.api, Session())
    assert (look.state, look.progress) == ("loading", 0.4)
    assert "reading weights" in look.text


@pytest.mark.parametrize("service", [{"key": "secret"}], indirect=True)
async def test_a_service_with_a_key_is_opened_by_that_key_only(service: Service) -> None:
    assert (await status.look(service.api, Session(key="wrong"))).state == "key"
    session = Session(key="secret")
    assert (await status.look(service.api, session)).state == "ready"
    assert session.model == "foghorn"
    assert session.transcript.home["presets"][0]["name"] == presets.FIRST


async def test_a_message_sent_before_the_first_look_is_answered_under_the_link(
    service: Service,
) -> None:
    do, session, nothing = handlers(service.api), Session(), list[Any]()
    request = SimpleNamespace(query_params={"steer": "foghorn/0:c:2.5"})

    async def sent() -> list[Any]:
        asked = do.ask("Who are you?", session, nothing, SHORT.model_dump(), False, False, None)
        return [update async for update in asked]

    asking = asyncio.create_task(sent())
    await asyncio.sleep(0)
    await do.arrive(request, session, None, SHORT.model_dump())  # type: ignore[arg-type]
    assert not any(do.parts.toast in update for update in await asking)
    (body,) = service.script.bodies
    assert [edit["feature"] for edit in body["steering"]["edits"]] == ["foghorn/0"]


async def test_edits_of_a_link_become_a_rack_with_the_labels_of_the_server(
    service: Service,
) -> None:
    edits = [
        {"feature": "golden-gate-bridge", "op": "add", "strength": -1.5, "on": False},
        {"feature": "foghorn/1", "op": "clamp", "strength": 3.0, "where": "prompt"},
    ]
    held = await search.rack_of(service.api, edits)
    assert [(e.feature, e.label, e.on) for e in held] == [
        ("foghorn/0", "Golden Gate Bridge", False),
        ("foghorn/1", "cats and kittens", True),
    ]
    assert held[1].wire()["where"] == "prompt"


async def opened(service: Service, **query: str) -> tuple[Any, Session, Any]:
    """What the page gets that was opened with this query."""
    do, session = handlers(service.api), Session()
    request = SimpleNamespace(query_params=query)
    update = await do.arrive(request, session, None, SHORT.model_dump())  # type: ignore[arg-type]
    return update, session, do.parts


async def test_an_address_may_name_a_preset_and_its_own_rack_goes_first(service: Service) -> None:
    for query, features in (
        ({"preset": "cats"}, ["foghorn/1"]),
        ({"preset": "cats", "steer": "foghorn/2:c:1"}, ["foghorn/2"]),
    ):
        update, session, parts = await opened(service, **query)
        assert [entry["feature"] for entry in update[parts.rack]] == features
        assert (session.link, session.preset) == ("", "")


async def test_an_address_with_a_preset_that_is_not_there_says_so(service: Service) -> None:
    update, _, parts = await opened(service, preset="<b>gone</b>")
    assert "There is no preset “<b>gone</b>” on this server." in update[parts.toast]["text"]
    assert parts.rack not in update


async def test_a_feature_the_server_does_not_know_is_refused_in_its_words(
    service: Service,
) -> None:
    with pytest.raises(ApiError, match="There is no feature 77; they go from 0 to 5"):
        await search.rack_of(service.api, [{"feature": "foghorn/77", "op": "add", "strength": 1}])


async def test_what_was_not_said_goes_back_into_the_message_field(service: Service) -> None:
    do, session = handlers(service.api), Session()
    session.arrived.set()
    asked = do.ask("Hello", session, [], SHORT.model_dump(), False, False, None)
    (update,) = [update async for update in asked]  # there is no model
    assert update[do.parts.toast]["unsaid"] == "Hello"
    await service.logs("this is too long")
    assert service.lines("end")[0]["code"] == "context_length_exceeded"
