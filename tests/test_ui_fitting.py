"""A conversation that outgrows the model's context, against a scripted service on a real socket."""

from __future__ import annotations

import ui_service
import ui_stub
from ui_service import SHORT, Service, handlers

from ui import fitting

service = ui_service.service  # fixture


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


async def test_no_turn_is_left_out_because_the_first_question_was_short(service: Service) -> None:
    """To that, a template's tokens are many; the reply tells what further text comes to."""
    service.session.context = 34  # words, of which a reply asks for 12
    await service.logs("a b c d")
    await service.logs("Who are you?")
    assert ui_stub.words(service.script.bodies[-1]) == 19
    assert "dropped" not in service.lines("end")[-1]


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
