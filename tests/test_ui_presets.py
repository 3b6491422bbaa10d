"""Presets: saved, named, shown and removed."""

from __future__ import annotations

import re

import gradio as gr
import pytest
import ui_service
from ui_service import BRIDGE, SHORT, Service, handlers

from ui import presets, rack
from ui.errors import PresetError
from ui.rack import Rack
from ui.session import Session

service = ui_service.service  # fixture


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


async def test_every_way_into_the_rack_tells_whether_the_dictionary_can_be_read(
    service: Service,
) -> None:
    do, chosen = handlers(service.api), SHORT.model_dump()
    for reads in (True, False):
        session = Session(exact={"foghorn": reads})
        session.arrived.set()
        event = gr.EventData(None, {"ref": "foghorn/0", "name": "cats"})
        loaded = await do.load(event, session, None, chosen)
        added = await do.add(event, session, None, chosen, [])
        assert [one[do.parts.rack][-1]["reads"] for one in (loaded, added)] == [reads, reads]


async def test_a_saved_preset_is_the_one_that_the_gallery_is_told_of(service: Service) -> None:
    do, session = handlers(service.api), Session()
    session.arrived.set()
    held = rack.value([rack.Entry(feature="foghorn/0", label="Bridge")])
    told = []
    for _ in range(2):
        event = gr.EventData(None, {"title": "Mine"})
        update = await do.save(event, session, None, SHORT.model_dump(), held)
        (saved,) = [one for one in update[do.parts.gallery] if one.get("saved")]
        assert saved["title"] == "Mine"
        told.append(saved["saved"])
    assert told[0] != told[1]
