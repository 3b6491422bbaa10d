"""Finding features: by words, by number, page after page, in each dictionary."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
import pytest
from ui_service import SHORT, Service, handlers, served

from ui import rack, search, transcript
from ui.session import Session

CHOSEN = SHORT.model_dump()
BOTH = ("foghorn", "second")


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with served(dictionaries=BOTH, size=120) as running:
        yield running


def refs(found: dict[str, Any]) -> list[str]:
    return [one["ref"] for one in found["results"]]


async def test_a_feature_is_found_by_its_number_in_the_dictionary_that_is_searched(
    service: Service,
) -> None:
    for q, dictionary, ref in (
        ("44", "", "foghorn/44"),
        ("44", "second", "second/44"),
        ("second/44", "foghorn", "second/44"),
        (" foghorn/0 ", "elsewhere", "foghorn/0"),
    ):
        found = await search.find(service.api, {"q": q, "dictionary": dictionary}, BOTH)
        assert refs(found)[0] == ref
        assert found["total"] == 1
    for q in ("120", "nowhere/1"):
        found = await search.find(service.api, {"q": q}, BOTH)
        assert (refs(found), found.get("error")) == ([], None)


async def test_searching_brings_what_a_row_shows_and_the_number_of_the_query(
    service: Service,
) -> None:
    found = await search.find(service.api, {"q": "cats", "n": 7, "sort": "nonsense"})
    assert (found["n"], found["total"]) == (7, 20)
    assert found["results"][0]["label"] == "cats and kittens"
    assert set(found["results"][0]) == set(search.SHOWN)


async def test_what_fires_on_a_text_is_found_in_the_dictionary_that_is_searched(
    service: Service,
) -> None:
    asked = {"q": "red fog tonight", "dictionary": "second", "n": 3, "fires": True}
    found = await search.find(service.api, asked, BOTH)
    assert refs(found) == ["second/0", "second/1", "second/2"]
    assert [one["activation"] for one in found["results"]] == [9.0, 8.0, 7.0]
    assert (found["n"], found["fires"], found["total"], found["next"]) == (3, True, 3, None)
    long = "the fog " * 40 + "half a word"  # the stub refuses what has this in it
    refused = await search.find(service.api, asked | {"q": long}, BOTH)
    assert (refused["results"], refused["error"][:17]) == ([], "There is no token")
    assert not (await search.find(service.api, {"q": "cats"}))["fires"]


async def test_where_no_feature_has_all_words_that_is_passed_on(service: Service) -> None:
    for q, some in (("cats", False), ("cats nowhere", True), ("nothing", False)):
        found = await search.find(service.api, {"q": q})
        assert (found["some"], found["total"]) == (some, 0 if q == "nothing" else 20)


async def test_page_after_page_every_feature_of_a_dictionary_is_reached(service: Service) -> None:
    seen: list[str] = []
    start: int | None = 0
    while start is not None:
        asked = {"q": "", "dictionary": "second", "offset": start}
        found = await search.find(service.api, asked, BOTH)
        seen += refs(found)
        start = found["next"]
    assert seen == [f"second/{i}" for i in range(120)]
    assert (found["dictionary"], found["dictionaries"]) == ("second", list(BOTH))


@pytest.mark.parametrize("offset", [-1, 2**40, "x", None])
async def test_a_page_that_no_page_can_be_is_the_first(service: Service, offset: Any) -> None:
    assert (await search.find(service.api, {"offset": offset}, BOTH))["offset"] == 0


async def test_two_features_of_one_label_are_named_with_their_dictionaries(
    service: Service,
) -> None:
    edits = [{"feature": f"{name}/0", "op": "add", "strength": 1.0} for name in BOTH]
    edits.append({"feature": "second/1", "op": "add", "strength": 1.0})
    held = await search.rack_of(service.api, edits)
    assert transcript.named(held) == [
        "Golden Gate Bridge (foghorn/0)",
        "Golden Gate Bridge (second/0)",
        "cats and kittens",
    ]
    assert transcript.named((rack.Entry(feature="a/1"), rack.Entry(feature="a/2"))) == [
        "a/1",
        "a/2",
    ]


async def test_a_card_does_not_wait_for_its_neighbours_and_says_what_it_could_not_get(
    service: Service,
) -> None:
    do, session = handlers(service.api), Session()
    session.arrived.set()

    async def answer(handler: Any, ref: str) -> dict[str, Any]:
        event = gr.EventData(None, {"ref": ref})
        return dict((await handler(event, session, None, CHOSEN))[do.parts.card])

    shown = await answer(do.details, "foghorn/0")
    assert (shown["ref"], shown["wants"]) == ("foghorn/0", True)
    assert "Nearest features" not in shown["html"]
    near = await answer(do.near, "foghorn/0")
    assert "cats and kittens" in near["near"]
    assert near["n"] > shown["n"]
    refused = await answer(do.details, "foghorn/999")
    assert "There is no feature 999" in refused["html"]
    assert "wants" not in refused
