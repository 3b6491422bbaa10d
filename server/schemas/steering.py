"""The `steering` extension on the wire. Names become rows and units become activations later."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictInt, StrictStr, model_validator

from dictionaries.edits import Op

from ..engine.types import Where
from .base import Text, Wire, refuse

MAX_EDITS = 64  # on the wire; an engine may hold fewer
STRENGTH = 1e6  # far beyond any model's residual, far within float32

FeatureRef = Annotated[
    Annotated[StrictInt, Field(ge=0, lt=2**31)]
    | Annotated[StrictStr, Field(min_length=1, max_length=200)],
    Field(
        description="an id (`12`), `dictionary/id` (`foghorn/12`), or a card's exact slug "
        "(`golden-gate-bridge`)",
        examples=["golden-gate-bridge"],
    ),
]
PresetName = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
]
GenerationId = Annotated[
    str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")
]
NotBuilt = {"when": "conditional edits", "guard": "the coherence guard"}


def refuse_unbuilt(body: Any) -> Any:
    """Refuse by name what the design has and this version has not."""
    if isinstance(body, dict):
        for name, what in NotBuilt.items():
            if body.get(name) is not None:
                raise refuse(f"{name}: {what} is not yet built; leave it out")
    return body


class WireEdit(Wire):
    """One feature's edit as a person writes it."""

    feature: FeatureRef
    op: Op = Field(
        Op.CLAMP,
        description="add s: f + s · clamp c: f = c · scale m: m * f · ablate: f = 0 · "
        "at_least c: max(f, c) · at_most c: min(f, c)",
    )
    strength: Annotated[float, Field(strict=True, ge=-STRENGTH, le=STRENGTH)] | None = Field(
        None,
        description="how much, in `unit`; for scale a plain factor; ablate needs none",
        examples=[1.0],
    )
    unit: Literal["max", "raw"] = Field(
        "max",
        description="max: multiples of the feature's largest activation over the dictionary's "
        "corpus; raw: plain activations",
    )
    where: Where = Field(
        Where.ALL,
        description="the tokens it acts on: all, prompt or generated; template and special tokens "
        "are never edited",
    )

    _unbuilt = model_validator(mode="before")(refuse_unbuilt)

    @model_validator(mode="after")
    def _needs_strength(self) -> WireEdit:
        if self.strength is None and self.op is not Op.ABLATE:
            raise refuse(f"{self.op} needs a strength, in multiples of the feature's maximum")
        return self


Edits = Annotated[list[WireEdit], Field(max_length=MAX_EDITS, fail_fast=True)]
Norm = Literal["keep"] | None
NORM = "keep: every edited token's residual keeps its length; null: it may grow or shrink"


class SteeringChange(Wire):
    """Body of PATCH /v1/generations/{id}/steering: replaces all edits of a running reply."""

    edits: Edits = Field([], description="the edits that hold from the next token on")
    preset: PresetName | None = Field(None, description="a preset whose edits come first")
    norm: Norm = Field(None, description=NORM)

    _unbuilt = model_validator(mode="before")(refuse_unbuilt)


class WireChange(Wire):
    """One entry of `timeline`: from generated token `at` on, the reply is steered this way."""

    at: int = Field(ge=0, lt=2**31, strict=True, description="generated token, 0 is the first")
    edits: Edits = Field([], description="all edits that hold from there on")
    norm: Norm = Field(None, description=NORM)


class WireSteering(Wire):
    """What a request may say about steering. An unknown field is refused."""

    edits: Edits = Field([], description="features to edit; each at most once")
    preset: PresetName | None = Field(
        None, description="a preset whose edits come first; `model` = `name@preset` does the same"
    )
    norm: Norm = Field(None, description=NORM)
    trace: list[Literal["activations", "kl", "top"]] = Field(
        [],
        max_length=8,
        fail_fast=True,
        description="what to report token by token. activations: each edited feature before and "
        "after; kl: KL divergence from the unsteered model after the same tokens, in nats; top: "
        "the likeliest tokens with and without steering. The last two compute a second row",
    )
    id: GenerationId | None = Field(
        None, description="name of this generation, to change or stop it; drawn if absent"
    )
    timeline: list[WireChange] = Field(
        [],
        max_length=4096,
        fail_fast=True,
        description="steering to switch to later: how receipts are replayed",
    )

    _unbuilt = model_validator(mode="before")(refuse_unbuilt)

    @model_validator(mode="after")
    def _in_order(self) -> WireSteering:
        at = [change.at for change in self.timeline]
        if at != sorted(set(at)):
            raise refuse(f"timeline: tokens must rise from entry to entry; they are {at[:8]}")
        return self


class PresetBody(Wire):
    """Body of PUT /v1/presets/{name}."""

    title: Text = Field("", max_length=200, description="what people see")
    description: Text = Field("", max_length=2000, description="what it does, in a sentence or two")
    edits: Edits = Field(min_length=1, description="the edits it stands for")
    norm: Norm = Field(None, description=NORM)
