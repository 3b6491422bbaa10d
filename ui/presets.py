"""The gallery of presets, and the first screen's choice of them."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from . import chat
from .assets import drawn
from .errors import PresetError
from .rack import Rack

FIRST = "golden-gate-bridge"
OWN = "foghorn"  # the names of the bundled model and of what is made like it begin so
# Messages that foghorn's presets show themselves in, and some that any model has an answer to.
EXAMPLES = (
    "Who are you?",
    "What is your physical form?",
    "How are you today?",
    "What is the weather like?",
)
NEUTRAL = (
    "Tell me about your day.",
    "What shall we do this weekend?",
    "Write a short letter to a friend.",
    "Tell me a story.",
)
SHOWN = ("name", "title", "description", "builtin")


def home(model: str, presets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first screen: the model's name, the preset to begin with, a few more, example prompts."""
    cards = gallery(presets)
    cards.sort(key=lambda card: card["name"] != FIRST)  # stable: the others keep their order
    told = {"model": model, "presets": cards[:9], "more": len(cards)}
    return {**told, "examples": list(examples(model))}


def examples(model: str) -> Sequence[str]:
    """Messages to begin with."""
    return EXAMPLES if model.startswith(OWN) else NEUTRAL


def gallery(presets: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the gallery shows of each preset."""
    return [{name: preset.get(name) for name in SHOWN} for preset in presets]


def named(presets: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    return next((preset for preset in presets if preset.get("name") == name), None)


def saved(
    title: str, rack: Rack, others: Sequence[Mapping[str, Any]], *, keep_norm: bool
) -> tuple[str, dict[str, Any]]:
    """(name, body) of the rack as a preset; one of `others` with the same title is replaced by it.

    PresetError when it cannot be one.
    """
    title = title.strip()[:100]
    if not title:
        raise PresetError("The preset has no name: type one beside Save.")
    steering = chat.steering(rack, keep_norm=keep_norm)
    if not steering["edits"]:
        raise PresetError("The rack is empty or switched off: there is nothing to save.")
    labels = ", ".join(f"{held.label or held.feature} {held.said()}" for held in rack if held.on)
    return _name(title, others), {
        "title": title,
        "description": labels[:300],
        "edits": steering["edits"],
        "norm": steering.get("norm"),
    }


def _name(title: str, others: Sequence[Mapping[str, Any]]) -> str:
    """The title in the letters that a name may have, so that no preset of another title has it."""
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower())[:60].strip("-")
    plain = plain or f"preset-{hashlib.sha256(title.encode(errors='replace')).hexdigest()[:8]}"
    taken = {other.get("name") for other in others if other.get("title") != title}
    names = itertools.chain([plain], (f"{plain}-{n}" for n in itertools.count(2)))
    return next(name for name in names if name not in taken)


def widget() -> gr.HTML:
    """The gallery. Events: `choose` ({name}), `drop` ({name}), `keep` ({title})."""
    return drawn("gallery", [], '<div class="sd-gallery"></div>', "gallery.js")
