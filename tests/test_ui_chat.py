"""Talking, against a scripted service on a real socket: streams, live changes, ends and errors."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import ui_stub
from ui_service import BRIDGE, SHORT, Service, handlers, served

from ui import chat, fitting, presets, rack, repeat, search, status, strip
from ui.client import Api
from ui.errors import ApiError, PresetError
from ui.rack import Entry, Rack
from ui.session import Session


def test_a_conversation_that_is_cleared_says_when_the_new_one_began() -> None:
    """So that the page can leave out a frame of the old one that comes late."""
    session = Session(model="foghorn", exact={})
    before = json.loads(session.transcript.log().split("\n")[0])
    session.transcript.ask("Hello")
    assert json.loads(session.transcript.log().split("\n")[0])["begun"] == before["begun"]
    session.transcript.clear()
    (line,) = session.transcript.log().split()
    assert json.loads(line)["begun"] > before["begun"]


@pytest.fixture
async def service(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    async with served(**getattr(request, "param", {})) as running:
        yield running


async def test_a_reply_grows_in_the_log_and_ends_once_with_its_receipt(service: Service) -> None:
    logs = await service.logs("Who are you?", BRIDGE)
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(logs))
    assert service.text() == "I am the bridge over the cold bay, and my towers stand"
    [end] = service.lines("end")
    assert (end["reason"], end["tokens"]) == ("length", 12)
    assert json.loads(end["receipt"])["seed"] == 7
    assert service.session.live is None


async def test_the_request_carries_rack_settings_and_trace(service: Service) -> None:
    await service.logs("Who are you?", BRIDGE)
    [body] = service.script.bodies
    assert body["model"] == "foghorn"
    assert (body["seed"], body["max_completion_tokens"]) == (7, 12)
    assert "temperature" not in body
    assert body["steering"]["edits"] == rack.edits(BRIDGE)
    assert body["steering"]["trace"] == ["activations"]
    [token, *_] = [one for line in service.lines("+") for one in line["t"]]
    assert token == ["I", [[0, 0.0, 25.0]]]


async def test_a_steered_reply_is_measured_where_the_service_can(service: Service) -> None:
    service.session.rows = 2
    await service.logs("Who are you?", BRIDGE, compare=True)
    steered, plain = service.script.bodies
    assert steered["steering"]["trace"] == ["activations", "kl", "top"]
    assert "trace" not in plain["steering"]
    token = next(one for line in service.lines("+") for one in line.get("t", ()))
    assert token[:3] == ["I", [[0, 0.0, 25.0]], 1.25]
    for (own, likely), share in zip(token[3], (0.607, 0.0498), strict=True):
        assert own == share
        assert [text for text, _ in likely] == [ui_stub.HOSTILE, " the", " a"]
        assert [p for _, p in likely] == [0.368] * 3
    await service.logs("And unsteered?")
    assert "trace" not in service.script.bodies[2]["steering"] or (
        "kl" not in service.script.bodies[2]["steering"]["trace"]
    )
    unmeasured = SHORT.model_copy(update={"measure": False})
    async for _ in chat.respond(service.api, service.session, "Hi", BRIDGE, unmeasured):
        pass
    assert service.script.bodies[3]["steering"]["trace"] == ["activations"]


def test_what_could_not_be_told_of_a_token_is_left_out_of_the_strip() -> None:
    told = strip.tokens({"steering": {"kl": [{"token": "a", "kl": None}]}})
    assert strip.pack(told, {}) == [["a", [], None]]
    assert strip.tokens({"steering": {"activations": "?", "kl": 3}}) == []
    odd = {"token": "a", "steered": {"logprob": "x", "top": [1]}, "unsteered": None}
    assert strip.pack([odd], {}) == [["a", [], None, [[0.0, []], [0.0, []]]]]


async def test_activations_are_not_asked_of_a_dictionary_that_cannot_read_them(
    service: Service,
) -> None:
    service.session.exact = {"foghorn": False}
    await service.logs("Who are you?", BRIDGE)
    assert "trace" not in service.script.bodies[0]["steering"]
    assert service.text()
    assert service.lines("end")[0]["tokens"] == 12


@pytest.mark.parametrize("service", [{"rate": 60.0}], indirect=True)
async def test_comparing_asks_both_at_once_from_one_seed(service: Service) -> None:
    await service.logs("Who are you?", BRIDGE, compare=True)
    steered, plain = service.script.bodies
    assert service.script.most_at_once == 2
    assert steered["seed"] == plain["seed"]
    assert steered["messages"] == plain["messages"]
    assert set(plain["steering"]) == {"id"}
    assert service.text(1).startswith("I am the bridge")
    assert service.text(2).startswith("I am a small language model")


async def test_each_side_of_a_comparison_remembers_its_own_replies(service: Service) -> None:
    await service.logs("Who are you?", BRIDGE, compare=True)
    await service.logs("And then?", BRIDGE, compare=True)
    told = [body["messages"][1]["content"] for body in service.script.bodies[2:]]
    assert told[0].startswith("I am the bridge")
    assert told[1].startswith("I am a small")


@pytest.mark.parametrize("service", [{"rate": 30.0}], indirect=True)
async def test_turning_the_rack_changes_the_rest_of_a_reply_and_marks_where(
    service: Service,
) -> None:
    talk = chat.respond(service.api, service.session, "Hello", BRIDGE, SHORT, compare=False)
    async for _ in talk:
        if len(service.text().split()) >= 3 and not service.lines("mark"):
            down = (BRIDGE[0].model_copy(update={"strength": 0.5}),)
            assert await chat.retune(service.api, service.session, down, keep_norm=False)
    [mark] = service.lines("mark")
    assert mark["x"] == "Golden Gate Bridge 2.5× → 0.5×"
    levels = [reading[0][2] for line in service.lines("+") for _, reading in line["t"]]
    assert 3 <= mark["at"] < 12
    assert levels == [25.0] * mark["at"] + [5.0] * (12 - mark["at"])
    words = service.text().split()
    assert words == ui_stub.STEERED[: mark["at"]] + ui_stub.PLAIN[mark["at"] : 12]


async def test_the_guard_is_asked_for_where_something_steers_and_says_what_it_did(
    service: Service,
) -> None:
    guarded = SHORT.model_copy(update={"guard": True})
    talk = chat.respond(service.api, service.session, "Hello", BRIDGE, guarded, compare=True)
    [_ async for _ in talk]
    steered, plain = service.script.bodies
    assert steered["steering"]["guard"] == {"mode": "back_off"}
    assert "guard" not in plain["steering"]
    [mark] = service.lines("mark")
    assert (mark["r"], mark["at"], mark["s"]) == (1, 5, "40%")
    assert mark["x"] == "guard: the text went in circles, so all strengths are at 40%"
    one, two = sorted(service.lines("end"), key=lambda line: int(line["r"]))
    assert one["guard"] == "guard: backed off once, to 40% of the strengths"
    assert "guard" not in two


@pytest.mark.parametrize("service", [{"rate": 30.0}], indirect=True)
async def test_a_rack_that_acts_as_before_is_not_sent_again(service: Service) -> None:
    talk = chat.respond(service.api, service.session, "Hello", BRIDGE, SHORT, compare=False)
    async for _ in talk:
        off = Entry(feature="foghorn/1", on=False)
        assert not await chat.retune(service.api, service.session, (*BRIDGE, off), keep_norm=False)
    assert not service.lines("mark")
    assert not await chat.retune(service.api, service.session, (), keep_norm=False)


@pytest.mark.parametrize("service", [{"rate": 20.0}], indirect=True)
async def test_stopping_keeps_what_was_said_and_its_receipt(service: Service) -> None:
    talk = chat.respond(service.api, service.session, "Hello", BRIDGE, SHORT, compare=True)
    async for _ in talk:
        if service.text():
            await asyncio.sleep(0)
            stopping = asyncio.create_task(chat.stop(service.api, service.session))
    await stopping
    ends = service.lines("end")
    assert [end["reason"] for end in ends] == ["cancelled", "cancelled"]
    assert all(0 < end["tokens"] < 12 and end["receipt"] for end in ends)
    assert not service.script.live


@pytest.mark.parametrize("service", [{"rate": 20.0}], indirect=True)
async def test_closing_the_page_stops_the_reply_at_the_service(service: Service) -> None:
    talk = chat.respond(service.api, service.session, "Hello", BRIDGE, SHORT, compare=False)
    async for _ in talk:
        if service.text():
            break
    await talk.aclose()  # type: ignore[attr-defined]
    for _ in range(100):
        if not service.script.live:
            break
        await asyncio.sleep(0.02)
    assert not service.script.live
    assert service.session.live is None
    assert service.lines("end")[0]["reason"] == "cancelled"


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("please fail", "The step failed: out of memory."),
        ("please cut", "The reply broke off before its end: the server closed the stream."),
        ("this is too long", "The prompt has 9000 tokens; 512 fit."),
    ],
)
async def test_a_reply_that_fails_says_why_in_its_place(
    service: Service, prompt: str, told: str
) -> None:
    await service.logs(prompt)
    [end] = service.lines("end")
    assert (end["reason"], end["error"]) == ("error", told)
    assert service.session.live is None


async def test_a_turn_that_failed_at_once_is_left_out_of_the_next_prompt(service: Service) -> None:
    await service.logs("this is too long")
    await service.logs("Hello")
    assert service.script.bodies[-1]["messages"] == [{"role": "user", "content": "Hello"}]


async def test_turns_that_do_not_fit_the_context_are_left_out_and_counted(
    service: Service,
) -> None:
    await service.logs("a first question that is quite verbose")
    await service.logs("Hello")
    service.script.context = 12  # words
    await service.logs("Who are you?")
    assert [m["content"] for m in service.script.bodies[-1]["messages"]] == ["Who are you?"]
    assert service.lines("end")[-1]["dropped"] == 2
    assert "dropped" not in service.lines("end")[1]


async def test_turns_once_left_out_are_neither_asked_nor_exported_again(service: Service) -> None:
    session, do = service.session, handlers(service.api)
    await service.logs("a first question that is quite verbose")
    service.script.context = 15  # words
    await service.logs("Hello")
    service.script.context = 30
    asked = len(service.script.bodies)
    await service.logs("Who are you?")
    (body,) = service.script.bodies[asked:]
    assert body["messages"][0]["content"] == "Hello"
    assert service.lines("end")[-1]["dropped"] == 1
    exported = await do.export(session, [], SHORT.model_dump(), "")
    assert "Hello" in exported[do.parts.export]["curl"]
    assert "verbose" not in exported[do.parts.export]["curl"]
    await do.fresh(session)
    assert session.transcript.dropped == 0


async def test_a_question_that_no_room_was_made_for_costs_no_turn(service: Service) -> None:
    await service.logs("Hello")
    await service.logs("this is too long")
    await service.logs("Who are you?")
    assert service.script.bodies[-1]["messages"][0]["content"] == "Hello"


async def test_a_long_conversation_is_made_to_fit_in_few_requests(service: Service) -> None:
    for i in range(100):
        turn = service.session.transcript.ask(f"question {i}")
        service.session.transcript.reply(turn, "steered", (), pair=False).text = "yes"
    service.script.context = 120  # words: forty of the turns
    await service.logs("Who are you?")
    assert len(service.script.bodies) < 12
    kept = len(service.script.bodies[-1]["messages"]) // 2
    assert 20 < kept <= 40
    assert service.lines("end")[-1]["dropped"] == 100 - kept
    asked = len(service.script.bodies)
    await service.logs("this is too long")
    assert len(service.script.bodies) - asked < 12


async def test_turns_are_left_out_where_the_reply_would_have_less_room_than_it_asks(
    service: Service,
) -> None:
    service.session.context = 48  # words; a reply asks for 12
    for _ in range(4):
        await service.logs("Who are you?")
    sizes = [ui_stub.words(body) for body in service.script.bodies]
    assert sizes == [3, 18, 33, 33]
    assert [line.get("dropped") for line in service.lines("end")] == [None, None, None, 1]
    service.session.context = 20  # of which a reply is kept half
    await service.logs("Who are you?")
    assert ui_stub.words(service.script.bodies[-1]) == 3
    assert service.lines("end")[-1]["dropped"] == 4


def test_no_request_has_more_messages_than_the_service_takes() -> None:
    roles = ["system", *["user", "assistant"] * 600, "user"]
    messages = [{"role": role, "content": str(i)} for i, role in enumerate(roles)]
    fit, dropped = fitting.opening(messages, 3)
    assert len(fit) <= fitting.MOST < len(fit) + 2
    assert len(fit) == len(messages) - 2 * dropped
    assert fitting.opening(messages[:2], 3) == (messages[:2], 0)


def test_leaving_out_the_oldest_turn_keeps_the_system_prompt_and_the_question() -> None:
    roles = ["system", "user", "assistant", "user"]
    messages = [{"role": role, "content": str(i)} for i, role in enumerate(roles)]
    assert fitting.without_oldest(messages, 1) == [messages[0], messages[3]]


async def test_answering_again_replaces_the_last_turn(service: Service) -> None:
    await service.logs("Hello")
    await service.logs("Who are you?")
    taken, seed = repeat.take_back(service.session, BRIDGE, SHORT)
    assert (taken.turn.user, seed) == ("Who are you?", 7)
    await service.logs("Who are you?", BRIDGE)
    taken, seed = repeat.take_back(service.session, BRIDGE, SHORT)
    assert (taken.turn.user, seed) == ("Who are you?", None)
    await service.logs("Who are you?", BRIDGE)
    assert [line["x"] for line in service.lines("user")] == ["Hello", "Who are you?"]
    assert [m["role"] for m in service.script.bodies[-1]["messages"]] == [
        "user",
        "assistant",
        "user",
    ]


async def test_a_long_conversation_is_not_sent_again_at_every_question(service: Service) -> None:
    service.session.rows = 2
    for _ in range(19):
        await service.logs("Hello", BRIDGE)
    logs = await service.logs("Who are you?", BRIDGE)
    assert len(logs[0]) < 10_000
    whole = service.session.transcript.log().split("\n")[1:]
    head, *last = logs[-1].split("\n")
    assert whole[json.loads(head)["from"] :] == last
    assert json.loads(last[0]) == {"k": "user", "x": "Who are you?"}


async def test_what_was_not_said_goes_back_into_the_message_field(service: Service) -> None:
    do, session = handlers(service.api), Session()
    session.arrived.set()
    asked = do.ask("Hello", session, [], SHORT.model_dump(), False, False, None)
    (update,) = [update async for update in asked]  # there is no model
    assert update[do.parts.toast]["unsaid"] == "Hello"
    await service.logs("this is too long")
    assert service.lines("end")[0]["code"] == "context_length_exceeded"


async def test_hostile_tokens_go_through_the_log_as_text(service: Service) -> None:
    logs = await service.logs("hostile", BRIDGE)
    assert ui_stub.HOSTILE in service.text()
    assert all(json.loads(line) for line in logs[-1].splitlines())


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


async def test_searching_brings_what_a_row_shows_and_the_number_of_the_query(
    service: Service,
) -> None:
    found = await search.find(service.api, {"q": "cats", "n": 7, "sort": "nonsense"})
    assert (found["n"], found["total"]) == (7, 1)
    assert found["results"][0]["label"] == "cats and kittens"
    assert set(found["results"][0]) == set(search.SHOWN)


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


async def test_a_feature_the_server_does_not_know_is_refused_in_its_words(
    service: Service,
) -> None:
    with pytest.raises(ApiError, match="There is no feature 77; they go from 0 to 5"):
        await search.rack_of(service.api, [{"feature": "foghorn/77", "op": "add", "strength": 1}])


async def test_a_rack_is_saved_as_a_preset_and_removed_again(service: Service) -> None:
    name, body = presets.saved("My Bridge!", BRIDGE, [], keep_norm=True)
    await service.api.save_preset(name, body)
    found = presets.named(await service.api.presets(), "my-bridge")
    assert found
    assert (found["norm"], found["edits"]) == ("keep", rack.edits(BRIDGE))
    await service.api.delete_preset(name)
    assert presets.named(await service.api.presets(), "my-bridge") is None


@pytest.mark.parametrize(("title", "held"), [("  ", BRIDGE), ("empty", ())])
def test_a_preset_needs_a_name_and_something_to_save(title: str, held: Rack) -> None:
    with pytest.raises(PresetError, match=r"\.$"):
        presets.saved(title, held, [], keep_norm=False)


def test_only_a_preset_of_the_same_title_is_replaced() -> None:
    def name(title: str, *others: dict[str, str]) -> str:
        return presets.saved(title, BRIDGE, others, keep_norm=False)[0]

    mine = {"name": "1", "title": "海 1"}
    assert name("海 1", mine) == "1"
    assert name("橋 1", mine) == "1-2"
    assert name("橋 1", mine, {"name": "1-2", "title": "橋 1"}) == "1-2"
    assert name("橋") != name("海")
    assert re.fullmatch("[a-z0-9-]{8,60}", name("橋"))


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
