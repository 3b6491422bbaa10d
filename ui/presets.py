"""The gallery of presets, and the first screen's choice of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from . import chat
from .assets import script
from .errors import PresetError
from .rack import Rack

FIRST = "golden-gate-bridge"
EXAMPLES = (
    "Who are you?",
    "What is your physical form?",
    "What should I do this weekend?",
    "Tell me a short story.",
)
SHOWN = ("name", "title", "description", "builtin")


def home(model: str, presets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first screen: the model's name, the preset to begin with, a few more, example prompts."""
    cards = gallery(presets)
    cards.sort(key=lambda card: card["name"] != FIRST)  # stable: the others keep their order
    return {"model": model, "presets": cards[:9], "more": len(cards), "examples": list(EXAMPLES)}


def gallery(presets: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the gallery shows of each preset."""
    return [{name: preset.get(name) for name in SHOWN} for preset in presets]


def named(presets: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    return next((preset for preset in presets if preset.get("name") == name), None)


def saved(title: str, rack: Rack, *, keep_norm: bool) -> tuple[str, dict[str, Any]]:
    """(name, body) of the rack as a preset. PresetError when it cannot be one."""
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60]
    if not name:
        raise PresetError("Give the preset a name with at least one letter or digit.")
    steering = chat.steering(rack, keep_norm=keep_norm)
    if not steering["edits"]:
        raise PresetError("The rack is empty or switched off: there is nothing to save.")
    labels = ", ".join(f"{held.label or held.feature} {held.said()}" for held in rack if held.on)
    return name, {
        "title": title.strip()[:100],
        "description": labels[:300],
        "edits": steering["edits"],
        "norm": steering.get("norm"),
    }


def widget() -> gr.HTML:
    """The gallery. Events: `choose` ({name}), `drop` ({name}), `keep` ({title})."""
    return gr.HTML(
        value=[],
        elem_id="gallery",
        html_template='<div class="sd-gallery"></div>',
        js_on_load=script("gallery.js"),
        apply_default_css=False,
    )
