"""The `steering` extension on the wire. Names become rows and units become activations later."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from dictionaries.edits import Op

from ..engine.conditions import SHORTEST, Thinking
from ..engine.types import Where
from .base import Text, Wire, refuse
from .conditions import (
    ABORTS,
    FURTHEST,
    STRENGTH,
    UNIT,
    Aborts,
    FeatureRef,
    Unit,
    Window,
    WireCondition,
)
from .guard import WireGuard
from .vectors import VECTORS, Vectors

Traced = Literal["activations", "kl", "top"]
MAX_EDITS = 64  # on the wire; an engine may hold fewer
MAX_ENTRIES = 4096  # of a timeline
MAX_TIMELINE = 8192  # edits and conditions of all its entries: their rows are held until the end
PresetName = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
]
GenerationId = Annotated[
    str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")
]


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
    unit: Unit = Field("max", description=UNIT)
    where: Where = Field(
        Where.ALL,
        description="the tokens it acts on: all, prompt or generated; template and special tokens "
        "are never edited, nor are tool calls",
    )
    when: WireCondition | None = Field(
        None, description="act only while this holds; its feature lies at the edit's site or before"
    )
    abort: Aborts = Field([], description=ABORTS)
    window: Window | None = Field(None, description="act only on these reply tokens")
    decay: float | None = Field(
        None,
        strict=True,
        ge=SHORTEST,
        lt=FURTHEST,
        description="reply tokens after which half of the edit's effect is left; counted from "
        "`window.first`, else from the reply's beginning",
    )
    thinking: Thinking | None = Field(
        None,
        description="only: on the thinking blocks of the reply; after: on the reply outside of "
        "them. Of models that mark such blocks",
    )

    @model_serializer(mode="wrap")
    def _briefly(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not asked for: older versions read such presets as well."""
        whole: dict[str, Any] = dump(self)
        timing = ("when", "abort", "window", "decay", "thinking")
        return {name: value for name, value in whole.items() if name not in timing or value}

    @model_validator(mode="after")
    def _needs_strength(self) -> WireEdit:
        if self.strength is None and self.op is not Op.ABLATE:
            of_maximum = "in multiples of the feature's maximum"
            measure = of_maximum if self.unit == "max" else "in activations"
            raise refuse(
                f"{self.op} needs a strength, {measure if self.op.has_unit else 'a factor'}"
            )
        if self.where is Where.PROMPT and (self.window or self.thinking):
            raise refuse("where is prompt, but window and thinking are about the reply: drop one")
        return self


Edits = Annotated[list[WireEdit], Field(max_length=MAX_EDITS, fail_fast=True)]
Norm = Literal["keep"] | None
NORM = "keep: every edited token's residual keeps its length; null: it may grow or shrink"


class SteeringChange(Wire):
    """Body of PATCH /v1/generations/{id}/steering: replaces all edits of a running reply."""

    edits: Edits = Field([], description="the edits that hold from the next token on")
    preset: PresetName | None = Field(None, description="a preset whose edits come first")
    norm: Norm = Field(None, description=NORM)
    abort: Aborts = Field([], description=ABORTS)
    vectors: Vectors = Field(
        {}, description=f"{VECTORS}; those that the reply had before can be named as well"
    )


class WireChange(Wire):
    """One entry of `timeline`: from generated token `at` on, the reply is steered this way."""

    at: int = Field(
        ge=1,
        lt=2**31,
        strict=True,
        description="generated token, counted from 0; what holds from there on stands in `edits`",
    )
    edits: Edits = Field([], description="all edits that hold from there on")
    norm: Norm = Field(None, description=NORM)
    abort: Aborts = Field([], description=ABORTS)

    @field_validator("at", mode="before")
    @classmethod
    def _later(cls, at: Any) -> Any:
        """A reply says what is applied before it begins, so that must not be replaced at once."""
        if at == 0:
            raise refuse(
                "0 came: entries begin at token 1, and what holds from the reply's beginning "
                "belongs to `edits` beside the timeline"
            )
        return at

    @property
    def weight(self) -> int:
        """The edits and conditions in it."""
        timed = sum(1 + (edit.when is not None) + len(edit.abort) for edit in self.edits)
        return timed + len(self.abort)


class WireSteering(Wire):
    """What a request may say about steering. An unknown field is refused."""

    edits: Edits = Field([], description="features to edit; each at most once")
    vectors: Vectors = Field({}, description=f"{VECTORS}, be it one of `timeline`")
    preset: PresetName | None = Field(
        None, description="a preset whose edits come first; `model` = `name@preset` does the same"
    )
    norm: Norm = Field(None, description=NORM)
    abort: Aborts = Field([], description=ABORTS)
    trace: list[Traced] = Field(
        [],
        max_length=8,
        fail_fast=True,
        description="what to report token by token. activations: each edited feature before and "
        "after; kl: KL divergence from the unsteered model after the same tokens, in nats; top: "
        "the likeliest tokens with and without steering. The last two compute a second row",
    )
    guard: WireGuard | None = Field(
        None, description="watch the reply's coherence, and warn, back off or stop"
    )
    id: GenerationId | None = Field(
        None, description="name of this generation, to change or stop it; drawn if absent"
    )
    timeline: list[WireChange] = Field(
        [],
        max_length=MAX_ENTRIES,
        fail_fast=True,
        description="steering to switch to later: how receipts are replayed",
    )

    @model_validator(mode="after")
    def _in_order(self) -> WireSteering:
        at = [change.at for change in self.timeline]
        if at != sorted(set(at)):
            raise refuse(f"timeline: tokens must rise from entry to entry; they are {at[:8]}")
        weight = sum(change.weight for change in self.timeline)
        if weight > MAX_TIMELINE:
            raise refuse(
                f"timeline: {weight} edits and conditions in all entries; {MAX_TIMELINE} are the "
                "most: send fewer"
            )
        return self


class PresetBody(Wire):
    """Body of PUT /v1/presets/{name}."""

    title: Text = Field("", max_length=200, description="what people see")
    description: Text = Field("", max_length=2000, description="what it does, in a sentence or two")
    edits: Edits = Field(min_length=1, description="the edits it stands for")
    norm: Norm = Field(None, description=NORM)
