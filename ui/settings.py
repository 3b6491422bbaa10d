"""The settings drawer: how the model samples, what it is told first, and the key."""

from __future__ import annotations

from typing import Any

import gradio as gr
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .assets import drawn
from .errors import SettingsError
from .typed import whole


class Settings(BaseModel):
    """The drawer's fields. None leaves the choice to the model's own defaults and the server.

    norm: keep the length of every edited token's residual. guard: let the service lower the
    strengths where a reply falls apart. measure: tell how far each token is from the unsteered
    model. ask_key: show the field for a key.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    system: str = Field(default="", max_length=100_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=256, ge=1, le=1_000_000)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    norm: bool = False
    guard: bool = False
    measure: bool = True
    ask_key: bool = False

    @field_validator("system", mode="before")
    @classmethod
    def _whole(cls, typed: object) -> object:
        return whole(typed) if isinstance(typed, str) else typed

    def sampling(self) -> dict[str, Any]:
        """The fields of a request that these settings fix."""
        fields = {"temperature": self.temperature, "max_completion_tokens": self.max_tokens}
        return {name: value for name, value in fields.items() if value is not None}


NAMES = {
    "system": "System prompt",
    "temperature": "Temperature",
    "max_tokens": "Longest reply",
    "seed": "Seed",
}


def parse(value: object) -> Settings:
    """What a browser sent, checked."""
    try:
        return Settings.model_validate(value or {})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        raise SettingsError(f"{NAMES.get(name, 'Settings')}: {first['msg']}.") from error


# What settings.js keeps is not in the widget yet when Gradio collects what the page's load sends.
RESTORED = """(session, stored, settings) => [session, stored,
    { ...settings, ...JSON.parse(sessionStorage.getItem("steerdeck-settings") || "{}") }]"""


def widget() -> gr.HTML:
    """The drawer's fields. Events: `change`, `unlock` ({key})."""
    fields = Settings().model_dump()
    return drawn("settings", fields, '<div class="sd-settings"></div>', "settings.js")
