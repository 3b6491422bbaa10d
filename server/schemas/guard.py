"""The coherence guard on the wire."""

from __future__ import annotations

import math

from pydantic import Field, StrictInt, model_validator

from ..engine.guard import Guard, Mode
from .base import Wire, refuse


class Entropy(Wire):
    """Of the next-token distribution before temperature, in nats. Below `low` the model says one
    thing only, above `high` anything.
    """

    low: float | None = Field(0.002, strict=True, ge=0, description="null: no lower bound")
    high: float | None = Field(
        None, strict=True, gt=0, description="null: half of the largest possible, ln(vocabulary)"
    )


class WireGuard(Wire):
    """Watches a reply while it is made. The bounds are on means over the last `window` tokens."""

    mode: Mode = Field(
        Mode.WARN,
        description="warn: tell; back_off: lower the strengths step by step, and end the reply "
        'when nothing is left to lower; stop: end it. Its finish_reason is "steering_guard"',
    )
    repetition: float | None = Field(
        0.55,
        strict=True,
        gt=0,
        le=1,
        description="share of the tokens that were among the four before, or end three which came "
        "just so among the 128 before; null: not watched",
    )
    entropy: Entropy | None = Field(
        default_factory=lambda: Entropy.model_validate({}), description="null: not watched"
    )
    kl: float | None = Field(
        None,
        strict=True,
        gt=0,
        description="KL divergence from the unsteered model in nats; computes a second row",
    )
    window: StrictInt = Field(16, ge=4, le=256, description="tokens")
    # With more, the steps down of 64 edits would be more than a receipt can replay.
    factor: float = Field(
        0.4, strict=True, gt=0, le=0.95, description="what each step back leaves of the strengths"
    )

    @model_validator(mode="after")
    def _watches(self) -> WireGuard:
        if self.repetition is None and self.entropy is None and self.kl is None:
            raise refuse("it watches nothing: leave it out, or give one of its bounds a number")
        return self

    def settings(self, vocab: int) -> Guard:
        """vocab: tokens of the model."""
        low = high = None
        if self.entropy is not None:
            low, high = self.entropy.low, self.entropy.high or 0.5 * math.log(vocab)
        return Guard(self.mode, self.repetition, low, high, self.kl, self.window, self.factor)
