"""When an edit acts, on the wire: another feature's activation, reply tokens, thinking blocks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictInt, StrictStr, model_validator

from ..engine.conditions import Crossing
from .base import Wire, refuse

STRENGTH = 1e6  # far beyond any model's residual, far within float32
FURTHEST = 2**24  # tokens; up to here float32 counts exactly

FeatureRef = Annotated[
    Annotated[StrictInt, Field(ge=0, lt=2**31)]
    | Annotated[StrictStr, Field(min_length=1, max_length=200)],
    Field(
        description="an id (`12`), `dictionary/id` (`foghorn/12`), or a card's exact slug "
        "(`golden-gate-bridge`); of an edit also `vector:NAME`, one of the request's `vectors`",
        examples=["golden-gate-bridge"],
    ),
]
Unit = Literal["max", "raw"]
UNIT = (
    "max: multiples of the feature's largest activation over the dictionary's corpus; "
    "raw: plain activations"
)


class WireCondition(Wire):
    """A feature's activation crosses a value. It is read where its dictionary sits, before anything
    is edited there, on the tokens that edits may touch: never on template and special tokens.
    """

    feature: FeatureRef
    op: Crossing = Field(Crossing.ABOVE, description="on which side of `value` it must lie")
    value: Annotated[float, Field(strict=True, ge=-STRENGTH, le=STRENGTH)] = Field(
        description="in `unit`; a feature that is silent is at 0"
    )
    unit: Unit = Field("max", description=UNIT)
    latch: bool = Field(
        False,
        description="false: on the tokens where it holds; true: from the first of them on, which "
        "may be in the prompt",
    )


class Window(Wire):
    """Reply tokens, counted from 0, both included."""

    first: StrictInt | None = Field(
        None, ge=0, lt=FURTHEST, description="null: from the beginning, the prompt included"
    )
    last: StrictInt | None = Field(None, ge=0, lt=FURTHEST, description="null: to the end")

    @model_validator(mode="after")
    def _in_order(self) -> Window:
        if self.first is not None and self.last is not None and self.last < self.first:
            raise refuse(f"last ({self.last}) comes before first ({self.first})")
        return self


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) or value is None else [value]


MAX_ABORTS = 8
Aborts = Annotated[
    Annotated[list[WireCondition], Field(max_length=MAX_ABORTS, fail_fast=True)],
    BeforeValidator(_listed),
]
ABORTS = (
    "a condition, or a list of them, on any token of prompt or reply: the first to hold ends the "
    'reply with finish_reason "steering_abort" (latch changes nothing here)'
)
