"""The rack: the features a person turns, as values, and the widget that shows them.

The widget's value comes back from a browser, where anybody can post anything: `parse` is the gate,
and nothing behind it sees an unchecked field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_args

import gradio as gr
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, computed_field

from .assets import drawn
from .errors import RackError
from .slider import FURTHEST, ends, near, room
from .timing import ALWAYS, FIELDS, Timing, conditions

Op = Literal["clamp", "add", "ablate", "scale", "at_least", "at_most"]
Unit = Literal["max", "raw"]
Where = Literal["all", "prompt", "generated"]

OPS: tuple[Op, ...] = get_args(Op)
MOST = 16  # features at once, the service's own limit
COLOURS = MOST  # a number for each feature of a rack; style.css has a colour for each eight


_PLACES: dict[Where, str] = {"prompt": "in the prompt", "generated": "in the reply"}
_Label = Annotated[str, Field(max_length=400)]


class Entry(BaseModel):
    """One feature in the rack. `strength` is in multiples of its maximum, or raw activations.

    band: (onset, breakdown) in multiples of the maximum, as measured for the recommended op.
    reads: its dictionary can read activations, as every op but `add` needs.
    reach: the strength, in raw activations, at which `add` is as long as the residual itself.
    timing: when it acts. timed: the same in words, for the page. labels: of the features that its
    conditions are about, by reference.
    lo, hi, step: the slider's where `op` takes a level; level: the strength to begin such an op
    with. ops.js knows the others. colour: which of the page's feature colours marks it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    feature: str = Field(min_length=1, max_length=200)
    label: str = Field(default="", max_length=400)
    op: Op = "clamp"
    strength: float = Field(default=1.0, ge=-FURTHEST, le=FURTHEST)
    unit: Unit = "max"
    where: Where = "all"
    timing: Timing = ALWAYS
    labels: Annotated[dict[str, _Label], Field(max_length=MOST)] = {}
    on: bool = True
    colour: int = Field(default=0, ge=0, lt=COLOURS)
    maximum: float | None = None
    density: float | None = None
    band: tuple[float, float | None] | None = None
    band_op: Op = "clamp"
    reach: float | None = None
    lo: float = -5.0
    hi: float = 10.0
    step: float = Field(default=0.25, gt=0)
    level: float = 1.0
    reads: bool = True

    @computed_field  # type: ignore[prop-decorator]
    @property
    def timed(self) -> str:
        return self.timing.said()

    def wire(self) -> dict[str, Any]:
        """The edit as the service's API takes it."""
        edit: dict[str, Any] = {"feature": self.feature, "op": self.op, "where": self.where}
        edit |= self.timing.wire()
        if self.op != "ablate":
            edit |= {"strength": self.strength, "unit": self.unit}
        return edit

    def acts(self) -> str:
        """Where and when, in words that name features as people know them."""
        told = [_PLACES.get(self.where, ""), self.timing.said(self.labels)]
        return ", ".join(filter(None, told)) or "always"

    def said(self) -> str:
        """The setting in a few characters, as marks in the chat show it."""
        if self.op == "ablate":
            return "ablated"
        if self.op == "scale":
            return f"scaled by {self.strength:g}"
        sign = {"add": "+", "at_least": "≥ ", "at_most": "≤ "}.get(self.op, "")
        sign = "" if self.op == "add" and self.strength < 0 else sign
        return f"{sign}{self.strength:g}{'' if self.unit == 'raw' else '×'}"


Rack = tuple[Entry, ...]
_entries = TypeAdapter(list[Entry])


def parse(value: object) -> Rack:
    """What a browser sent, checked. RackError says which entry is wrong and how."""
    if value in (None, ""):
        return ()
    try:
        entries = _entries.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ", ".join(_place(value, first["loc"])) or "the list"
        raise RackError(f"The rack was not used: {place}: {first['msg']}.") from error
    if len(entries) > MOST:
        raise RackError(f"The rack holds {len(entries)} features; at most {MOST} act at once.")
    names = [entry.feature for entry in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RackError(f"The rack holds feature {twice} twice; keep one of them.")
    return tuple(entries)


def _place(value: object, loc: tuple[int | str, ...]) -> list[str]:
    """Where a posted rack is wrong, by the name that the feature has on the page."""
    names = [str(part) for part in loc]
    entry = value[loc[0]] if isinstance(value, list) and isinstance(loc[0], int) else None
    if isinstance(entry, dict) and (name := entry.get("label") or entry.get("feature")):
        names[0] = f"“{' '.join(str(name).split())[:60]}”"
    return names


def edits(rack: Iterable[Entry]) -> list[dict[str, Any]]:
    """The edits of the features that are switched on."""
    return [entry.wire() for entry in rack if entry.on]


def acting(rack: Iterable[Entry]) -> list[list[Any]]:
    """What acts and how; rack.js compares it with what it holds."""
    return [[e.feature, e.op, e.strength, e.unit, e.where, e.timing.wire()] for e in rack if e.on]


def value(rack: Iterable[Entry]) -> list[dict[str, Any]]:
    """What the widget shows."""
    return [entry.model_dump(mode="json") for entry in rack]


def joined(rack: Rack) -> list[dict[str, Any]]:
    """The same after `add`: the widget takes the last entry only, beside what it holds by then."""
    *others, last = value(rack)
    return [*others, {**last, "joins": True}]


def entry(
    summary: Mapping[str, Any],
    colour: int,
    edit: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    *,
    reads: bool = True,
) -> Entry:
    """A feature of the API as a rack entry: as recommended, or as `edit` (a wire edit) sets it.

    labels: of features, those of the edit's conditions among them, by reference. reads: Entry's.
    RackError where the edit is none that a rack can hold.
    """
    recommended = summary.get("recommended") or {}
    given = edit or {}
    maximum = _number(summary.get("maximum"))
    unit = given.get("unit") or ("max" if maximum else "raw")
    usual = recommended.get("op") or ("clamp" if maximum else "add")
    op = given.get("op") or (usual if reads else "add")
    band = _band(summary.get("band")) if unit == "max" else None
    reach = _reach(summary.get("reach")) if unit == "raw" else None
    lo, hi, step = ends(band, unit, reach)
    begin = 2.0 if unit == "max" else 1.0 if reach is None else near(reach / 2, step)
    level = (_number(recommended.get("strength")) if unit == "max" else None) or begin
    strength = _number(given.get("strength"))
    strength = level if strength is None else strength
    if op != "scale":  # a factor is no level
        lo, hi = room(lo, hi, strength)
    about = {str(one["feature"]) for one in conditions(given)}
    fields = {
        "feature": str(summary.get("ref") or summary.get("id")),
        "label": str(summary.get("label") or "")[:400],
        "op": op,
        "strength": strength,
        "unit": unit,
        "where": given.get("where") or "all",
        "timing": {name: given[name] for name in FIELDS if given.get(name)},
        "labels": {ref: text[:400] for ref, text in (labels or {}).items() if ref in about},
        "on": given.get("on", True),
        "colour": colour % COLOURS,
        "maximum": maximum,
        "density": _number(summary.get("density")),
        "band": band,
        "band_op": recommended.get("op") or "clamp",
        "reach": reach,
        "reads": reads,
    }
    return parse([{**fields, "lo": lo, "hi": hi, "step": step, "level": level}])[0]


def add(rack: Rack, summary: Mapping[str, Any], *, reads: bool = True) -> Rack:
    """The rack with one more feature, in the first colour that is free."""
    if any(held.feature == summary.get("ref") for held in rack):
        raise RackError(f"“{summary.get('label')}” is in the rack already.")
    if len(rack) >= MOST:
        raise RackError(f"The rack is full: at most {MOST} features act at once. Remove one first.")
    return (*rack, entry(summary, free_colour(rack), reads=reads))


def free_colour(rack: Rack) -> int:
    used = [held.colour for held in rack]
    return min(range(COLOURS), key=lambda colour: (used.count(colour), colour))


def widget() -> gr.HTML:
    """The rack's place on the page; its `value` is the list of entries.

    Events: `change` whenever the list changes; `follow` when a person's change has come to rest and
    the last reply should follow it; `look` ({ref}) when a feature's details are wanted.
    """
    template = '<ul class="sd-rack" aria-label="Features in the rack"></ul>'
    return drawn("rack", [], template, "offer.js", "ops.js", "when.js", "rack.js")


def _band(band: object) -> tuple[float, float | None] | None:
    if not isinstance(band, (list, tuple)) or len(band) != 2:
        return None
    onset, breakdown = _number(band[0]), _number(band[1])
    if onset is None or (breakdown is not None and breakdown <= onset):
        return None
    return onset, breakdown


def _reach(value: object) -> float | None:
    reach = _number(value)
    return reach if reach is not None and 1e-6 < reach < FURTHEST / 2 else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
