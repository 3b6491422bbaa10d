"""Named sets of edits: list, read, save, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path

from ..imports import read_preset
from ..presets import Preset
from ..schemas.listings import PresetList, PresetReply
from ..schemas.replies import Deleted
from ..schemas.steering import PresetBody, PresetName
from ..steering import check_preset
from .common import DeckDep

router = APIRouter(prefix="/presets", tags=["presets"])

Name = Annotated[PresetName, Path(description="letters, digits, `.`, `_` and `-`")]


def preset_reply(preset: Preset) -> PresetReply:
    body = preset.body
    return {
        "object": "preset",
        "name": preset.name,
        "title": body.title or preset.name,
        "description": body.description,
        "edits": [edit.model_dump(mode="json") for edit in body.edits],
        "norm": body.norm,
        "builtin": preset.builtin,
    }


@router.get("", summary="All presets")
async def presets(deck: DeckDep) -> PresetList:
    return {"object": "list", "data": [preset_reply(preset) for preset in deck.presets.all()]}


@router.get("/{name}", summary="One preset")
async def preset(name: Name, deck: DeckDep) -> PresetReply:
    return preset_reply(deck.presets.get(name))


@router.put("/{name}", summary="Save a preset")
def put(
    name: Name,
    body: Annotated[
        dict[str, Any],
        Body(
            description="title, description, edits, norm; or the steering JSON of Neuronpedia "
            "(`features` with `index`) or Goodfire (`interventions`)",
            openapi_examples={
                "ours": {
                    "value": {
                        "title": "Fog",
                        "edits": [{"feature": "san-francisco-fog", "strength": 1.0}],
                    }
                }
            },
        ),
    ],
    deck: DeckDep,
) -> PresetReply:
    """Checked against the loaded dictionaries first: a preset that could not be used is refused."""
    read: PresetBody = read_preset(deck, body)
    check_preset(deck, read)
    return preset_reply(deck.presets.put(name, read))


@router.delete("/{name}", summary="Delete a preset")
def delete(name: Name, deck: DeckDep) -> Deleted:
    deck.presets.delete(name)
    return {"id": name, "object": "preset", "deleted": True}
