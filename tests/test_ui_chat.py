"""Talking, against a scripted service on a real socket: streams, live changes, ends and errors."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest
import ui_service
import ui_stub
from ui_service import BRIDGE, SHORT, Service

from ui import chat, rack, repeat
from ui.rack import Entry
from ui.session import Session

service = ui_service.service  # fixture


def test_a_conversation_that_is_cleared_says_when_the_new_one_began() -> None:
    """So that the page can leave out a frame of the old one that comes late."""
    session = Session(model="foghorn", exact={})
    before = json.loads(session.transcript.log().split("\n")[0])
    session.transcript.ask("Hello")
    assert json.loads(session.transcript.log().split("\n")[0])["begun"] == before["begun"]
    session.transcript.clear()
    (line,) = session.transcript.log().split()
    assert json.loads(line)["begun"] > before["begun"]


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
    assert json.loads(last[0]) == {"k": "user", "x": "Who are you?", "rack": rack.acting(BRIDGE)}


async def test_hostile_tokens_go_through_the_log_as_text(service: Service) -> None:
    logs = await service.logs("hostile", BRIDGE)
    assert ui_stub.HOSTILE in service.text()
    assert all(json.loads(line) for line in logs[-1].splitlines())
