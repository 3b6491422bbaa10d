"""The body of /v1/compare: a conversation as /v1/chat/completions takes it, and variants."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from .base import Text, refuse
from .requests import ChatRequest
from .steering import SteeringChange

MAX_VARIANTS = 16
COMMON = ("id", "trace", "guard", "vectors")  # of `steering`: what is not a variant's own


class Variant(SteeringChange):
    """One way to steer the reply."""

    label: Text = Field(
        "", max_length=80, description="what to call it; default: its preset or its edits"
    )


class CompareRequest(ChatRequest):
    """POST /v1/compare. `steering` holds `id`, `trace`, `guard` and `vectors` only: what is edited
    is said by the variants, which may all name those vectors.
    """

    variants: Annotated[
        list[Variant], Field(min_length=1, max_length=MAX_VARIANTS, fail_fast=True)
    ] = Field(description="ways to steer the reply; the unsteered one is made beside them")

    @model_validator(mode="after")
    def _only_what_is_common(self) -> CompareRequest:
        if (self.n or 1) > 1:
            raise refuse("n: a comparison makes one reply a variant, from one seed", "n")
        for name in sorted(self.steering.model_fields_set if self.steering else ()):
            if name not in COMMON and getattr(self.steering, name):
                raise refuse(
                    f"steering.{name}: here every variant has its own; only "
                    f"{', '.join(COMMON)} are common to all",
                    f"steering.{name}",
                )
        return self
