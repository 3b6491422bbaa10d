"""Whether the service is there, loaded and open to us; the header and banner that say so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from . import presets
from .assets import drawn, text
from .client import JSON, Api
from .errors import ApiError
from .session import Session

STAGE = "The model is loading"
AGAIN = 1.5  # seconds between looks at a service that is not ready


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the service found: `state` is ready, loading, unreachable, key or broken."""

    state: str
    text: str = ""
    progress: float | None = None
    presets: list[JSON] = field(default_factory=list)

    def value(self, session: Session) -> dict[str, Any]:
        """What the header widget shows."""
        return {
            "model": session.model,
            "dictionaries": len(session.exact),
            "thinks": session.thinks,
            "state": self.state,
            "text": self.text,
            "progress": self.progress,
        }


async def look(api: Api, session: Session) -> Look:
    """Ask the service how it is; once it is ready, learn its model, dictionaries and presets."""
    api = session.api(api)
    try:
        readiness = await api.ready()
        if readiness.message:
            return Look("broken", f"The server cannot reply: {readiness.message.rstrip('.')}.")
        if not readiness.ready:
            stage = f": {readiness.stage}" if readiness.stage else ""
            return Look("loading", f"{STAGE}{stage}.", readiness.progress)
        models, dictionaries, able, gallery = await asyncio.gather(
            api.get("/v1/models"),
            api.get("/v1/dictionaries"),
            api.get("/v1/capabilities"),
            api.presets(),
        )
    except ApiError as error:
        return trouble(error)
    data = models.get("data") or [{}]
    session.model = str(data[0].get("id") or "")
    session.exact = {
        str(one.get("id")): bool(one.get("reads_exactly", True))
        for one in dictionaries.get("data", [])
    }
    limits = able.get("limits") or {}
    rows, context = limits.get("rows"), limits.get("context_tokens")
    session.rows = rows if isinstance(rows, int) and "kl" in (able.get("trace") or ()) else 0
    session.context = context if isinstance(context, int) else 0
    session.thinks = bool(able.get("thinking"))
    session.transcript.home = presets.home(session.model, gallery)
    return Look("ready", presets=gallery)


def trouble(error: ApiError) -> Look:
    """What the banner says of an error that stops the whole page."""
    if error.status == 401:
        return Look("key", f"{error} Enter it under Settings.")
    if error.code == "unreachable":
        return Look(
            "unreachable", f"{error} Start it with `steerdeck serve`; this page keeps trying."
        )
    if error.status == 503:
        return Look("loading", str(error))
    return Look("broken", str(error))


def widget() -> gr.HTML:
    """Header and banner. Event: `fresh` when a new conversation is wanted."""
    return drawn("top", {}, text("static/top.html"), "top.js")
