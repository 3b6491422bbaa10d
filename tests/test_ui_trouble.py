"""What the page makes of a service that is away, strange, silent or started anew."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx2
import pytest
import ui_service
from ui_service import BRIDGE, SHORT, Service, deafened, handlers, served

from ui import chat, client, rack, status, talking
from ui.client import Api
from ui.errors import ApiError
from ui.session import Session
from ui.status import Look

CHOSEN = SHORT.model_dump()


service = ui_service.service  # fixture


def answering(*answer: Any, **more: Any) -> Api:
    """An Api whose service answers everything so, or raises that exception."""

    def handle(request: httpx2.Request) -> httpx2.Response:
        if isinstance(answer[0], type):
            raise answer[0]("no", request=request)
        return httpx2.Response(*answer, **more)

    return Api("http://stub", http=httpx2.AsyncClient(transport=httpx2.MockTransport(handle)))


async def test_a_chunk_may_be_longer_than_a_mebibyte() -> None:
    long = {"steering": {"receipt": {"timeline": ["x" * 2**21]}}}
    told = f"data: {json.dumps(long)}\n\ndata: [DONE]\n\n"
    api = answering(200, headers={"content-type": "text/event-stream"}, text=told)
    assert [chunk async for chunk in api.stream({})] == [long]


@pytest.mark.parametrize("service", [{"key": "secret"}], indirect=True)
async def test_a_tab_whose_server_was_started_anew_is_answered_at_its_next_message(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talking, "ARRIVAL", 0.01)
    do, session, stored = handlers(service.api), Session(), {"key": "secret"}
    asked = do.ask("Who are you?", session, [], CHOSEN, False, False, stored)
    first, *rest = [update async for update in asked]
    assert "started anew" in first[do.parts.toast]["text"]
    assert first[do.parts.top]["state"] == "ready"
    assert "small" in rest[-1][do.parts.thread]
    assert [end["reason"] for end in _ends(rest[-1][do.parts.thread])] == ["length"]
    asked = do.ask("And then?", session, [], CHOSEN, False, False, stored)
    assert not [update async for update in asked if do.parts.toast in update]


@pytest.mark.parametrize("service", [{"key": "secret"}], indirect=True)
@pytest.mark.parametrize(
    ("name", "data", "part", "held"),
    [
        ("find", {"q": "cats", "n": 1}, "search", ()),
        ("details", {"ref": "foghorn/0"}, "card", ()),
        ("add", {"ref": "foghorn/0"}, "rack", ([],)),
        ("load", {"name": "cats"}, "rack", ()),
        ("save", {"title": "Mine"}, "gallery", (rack.value(BRIDGE),)),
        ("remove", {"name": "cats"}, "gallery", ()),
    ],
)
async def test_what_a_tab_asks_of_a_server_that_was_started_anew_is_asked_with_its_key(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    data: dict[str, Any],
    part: str,
    held: tuple[Any, ...],
) -> None:
    monkeypatch.setattr(talking, "ARRIVAL", 0.01)
    do, session, event = handlers(service.api), Session(), gr.EventData(None, data)
    around = (event, session, {"key": "secret"}, CHOSEN, *held)
    both = await asyncio.gather(getattr(do, name)(*around), getattr(do, name)(*around))
    update = both[0]
    assert update[getattr(do.parts, part)]
    assert not update.get(do.parts.search, {}).get("error")
    told = [one[do.parts.toast]["text"] for one in both if do.parts.toast in one]
    assert ["started anew" in text for text in told] == [True], "once"


async def test_the_address_keeps_its_link_until_that_is_the_rack(service: Service) -> None:
    """A rack that is still empty must not be written over what it is to become."""
    do, session = handlers(service.api), Session()
    request = SimpleNamespace(query_params={"steer": "foghorn/0:c:2.5"})
    linked = [(await do.link(session, [], CHOSEN))[do.parts.export]["link"]]
    service.script.loading, service.script.started = 60.0, time.monotonic()
    await do.arrive(request, session, None, CHOSEN)  # type: ignore[arg-type]
    linked.append((await do.export(session, [], CHOSEN, ""))[do.parts.export]["link"])
    service.script.loading = 0.0
    held = (await do.look_again(session, None, CHOSEN))[do.parts.rack]
    linked.append((await do.link(session, held, CHOSEN))[do.parts.export]["link"])
    assert linked == [None, None, "steer=foghorn/0:c:2.5"]


async def test_nothing_to_ask_again_is_left_of_a_server_that_was_started_anew(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talking, "ARRIVAL", 0.01)
    do, session = handlers(service.api), Session()
    shown = [update async for update in do.again(session, [], CHOSEN, False, False, None)]
    assert shown[0][do.parts.top]["state"] == "ready"
    assert not service.script.bodies


async def test_the_page_looks_again_until_the_service_is_ready_or_wants_a_key() -> None:
    do = handlers(Api("http://127.0.0.1:9"))
    troubles = [ApiError("x", status=status) for status in (0, 429, 500, 502, 503)]
    looks = [status.trouble(error) for error in troubles]
    for look in [*looks, Look("loading"), Look("unreachable")]:
        assert do.standing(Session(), look, CHOSEN)[do.parts.timer].active, look
    for look in (Look("ready"), status.trouble(ApiError("x", status=401))):
        assert not do.standing(Session(), look, CHOSEN)[do.parts.timer].active, look


@pytest.mark.parametrize("error", [httpx2.ConnectError, httpx2.ConnectTimeout])
async def test_a_host_that_does_not_take_the_call_is_unreachable(error: type) -> None:
    api = answering(error)
    assert (await status.look(api, Session())).state == "unreachable"
    with pytest.raises(ApiError) as refused:
        [_ async for _ in api.stream({})]
    assert refused.value.code == "unreachable"


@pytest.mark.parametrize("code", [204, 301, 404, 502])
async def test_who_answers_readyz_otherwise_is_not_taken_for_a_service_that_loads(
    code: int,
) -> None:
    look = await status.look(answering(code, headers={"location": "/"}), Session())
    assert look.state == "broken"
    assert look.text.startswith(f"http://stub/readyz answers {code}, where ")
    assert "--url" in look.text


async def test_a_service_that_will_never_be_ready_says_why() -> None:
    told = {"ready": False, "stage": "dead", "message": "the engine ended: restart the server"}
    look = await status.look(answering(503, json=told), Session())
    assert look == Look("broken", "The server cannot reply: the engine ended: restart the server.")


@pytest.mark.parametrize("service", [{"key": "secret"}], indirect=True)
@pytest.mark.parametrize("key", ["ключ", "\ud800"])
async def test_a_key_in_any_letters_is_refused_like_any_other(service: Service, key: str) -> None:
    assert (await status.look(service.api, Session(key=key))).state == "key"


async def test_after_a_model_that_is_gone_the_page_learns_the_one_that_is_there(
    service: Service,
) -> None:
    do, session = handlers(service.api), Session(model="gone")
    session.arrived.set()
    asked = do.ask("Hello", session, [], CHOSEN, False, False, None)
    assert [update async for update in asked][-1][do.parts.top]["model"] == "foghorn"
    assert session.model == "foghorn"


@pytest.mark.parametrize("service", [{"rate": 0.2}], indirect=True)
async def test_a_service_that_goes_silent_ends_the_reply(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SILENCE", 0.2)
    async with asyncio.timeout(4):
        await service.logs("Hello")
    [end] = service.lines("end")
    assert end["error"] == "The reply broke off: the server has sent nothing for 0.2 seconds."


@pytest.mark.parametrize("service", [{"rate": 0.2}], indirect=True)
async def test_stopping_does_not_wait_for_a_service_that_does_not_answer(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = await deafened(service, monkeypatch)
    async with asyncio.timeout(4):
        await chat.stop(service.api, service.session)
        await reply
    assert [end["reason"] for end in service.lines("end")] == ["cancelled"]


async def test_a_reply_stays_where_the_service_refuses_to_answer_again(service: Service) -> None:
    do, session = handlers(service.api), service.session
    session.arrived.set()
    before = (await service.logs("Who are you?"))[-1]
    service.script.context = 0
    shown = [update async for update in do.again(session, [], CHOSEN, False, False, None)]
    assert shown[-2][do.parts.thread] == before
    assert shown[-2][do.parts.toast]["text"] == "The prompt has 9000 tokens; 512 fit."
    assert session.transcript.turns[-1].replies["steered"].text
    service.script.context = 9000
    async for update in do.again(session, [], CHOSEN, False, False, None):
        assert do.parts.toast not in update
    assert session.transcript.log() != before


async def test_a_reply_stays_where_answering_again_is_stopped_before_a_word(monkeypatch) -> None:
    async with served() as service:
        do, session = handlers(service.api), service.session
        session.arrived.set()
        before = (await service.logs("Who are you?"))[-1]
        service.script.rate = 0.5
        shown = []

        async def again() -> None:
            async for update in do.again(session, [], CHOSEN, False, False, None):
                shown.append(update)

        asked = asyncio.create_task(again())
        while session.live is None:
            await asyncio.sleep(0.01)
        await do.stop(session)
        await asked
    assert shown[-1] == {do.parts.thread: before}
    assert session.transcript.messages("steered", "")[-1]["role"] == "assistant"


async def test_settings_are_written_only_where_they_change() -> None:
    do, ready = handlers(Api("http://127.0.0.1:9")), Look("ready")
    settings = do.parts.settings
    assert settings not in do.standing(Session(), ready, CHOSEN)
    assert do.standing(Session(key="k"), ready, CHOSEN)[settings] == CHOSEN | {"ask_key": True}
    assert settings not in do.racked((), False, CHOSEN)
    assert do.racked((), True, CHOSEN)[settings] == CHOSEN | {"norm": True}


def _ends(log: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.splitlines()) if line["k"] == "end"]
