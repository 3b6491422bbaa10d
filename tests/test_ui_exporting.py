"""What Export shows asks for the replies that have just been seen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from ui_service import BRIDGE, Service, served

from ui import chat, columns, exporting, presets, singly, sweep
from ui.rack import Entry
from ui.settings import Settings

ANY_SEED = Settings(max_tokens=4)
WHO = "Who are you?"


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with served() as running:
        yield running


async def asked(service: Service, logs: AsyncIterator[str]) -> dict[str, Any]:
    """What was sent for the question, less what only the page needs."""
    assert [log async for log in logs]
    body = dict(service.script.bodies[-1])
    steering = {name: value for name, value in body.pop("steering").items() if name != "id"}
    steering.pop("trace", None)
    own = {"steering": steering} if steering else {}
    return {n: value for n, value in body.items() if not n.startswith("stream")} | own


@pytest.mark.parametrize("held", [BRIDGE, ()])
async def test_the_exported_request_is_the_one_that_was_answered(
    service: Service, held: Any
) -> None:
    """Its drawn seed too, or it would ask for another reply."""
    talk = service.session.transcript
    for text in ("Hello", WHO):
        logs = chat.respond(service.api, service.session, text, held, ANY_SEED)
        body = await asked(service, logs)
        shown = exporting.request(service.session, held, ANY_SEED, "typed since")
        assert shown == {**body, "seed": talk.turns[-1].seed}
        assert shown["messages"][-1]["content"] == text
    turned = (BRIDGE[0].model_copy(update={"strength": 3.0}),)
    for seed in (None, 11):
        chosen = Settings(max_tokens=4, seed=seed)
        assert exporting.request(service.session, turned, chosen, "").get("seed") == seed


async def test_after_a_sweep_the_export_asks_for_all_its_columns(service: Service) -> None:
    guarded = ANY_SEED.model_copy(update={"guard": True})
    ways = sweep.ways(BRIDGE)
    logs = columns.respond(service.api, service.session, WHO, BRIDGE, guarded, ways)
    body = await asked(service, logs)
    shown = exporting.request(service.session, BRIDGE, guarded, "")
    assert shown == body
    assert [way["edits"][0]["strength"] for way in shown["variants"]] == [1.25, 2.5, 3.75, 5.0]
    assert "variants" not in exporting.request(service.session, (), guarded, "")
    ablated = (BRIDGE[0].model_copy(update={"op": "ablate"}),)
    assert len(exporting.request(service.session, ablated, guarded, "")["variants"]) == 1


async def test_after_each_feature_alone_the_export_asks_for_them_and_all_together(
    service: Service,
) -> None:
    held = (*BRIDGE, Entry(feature="foghorn/1", op="scale", strength=3.0))
    logs = columns.respond(service.api, service.session, WHO, held, ANY_SEED, singly.ways(held))
    body = await asked(service, logs)
    assert exporting.request(service.session, held, ANY_SEED, "") == body
    assert [len(way["edits"]) for way in body["variants"]] == [2, 1, 1]
    assert len(exporting.request(service.session, BRIDGE, ANY_SEED, "")["variants"]) == 1


async def test_after_a_comparison_the_export_asks_for_both_sides(service: Service) -> None:
    assert await service.logs(WHO, BRIDGE, compare=True)
    shown = exporting.request(service.session, BRIDGE, ANY_SEED, "")
    assert shown["variants"] == [chat.steering(BRIDGE, keep_norm=False)]
    assert shown["seed"] == service.session.transcript.turns[-1].seed
    assert "steering" not in shown


async def test_before_the_first_question_it_is_the_typed_one_or_an_example(
    service: Service,
) -> None:
    for typed, text in ((WHO, WHO), ("", presets.examples("foghorn")[0])):
        shown = exporting.request(service.session, BRIDGE, ANY_SEED, typed)
        assert shown["messages"] == [{"role": "user", "content": text}]


def test_no_other_model_is_asked_what_foghorn_is_asked() -> None:
    of_foghorn, of_others = (presets.home(name, [])["examples"] for name in ("foghorn", "gpt2"))
    assert of_foghorn
    assert of_others
    assert not set(of_foghorn) & set(of_others)
    assert presets.home("foghorn-4", [])["examples"] == of_foghorn
