"""One question answered in several ways, as columns: unsteered, and steered by several racks.

The service makes all of them in one batch from one seed (POST /v1/compare), so that only the
steering differs. The conversation goes on with the column "steered", the rack as it stands.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import chat, guard
from .client import Api
from .compare import Event, Merged
from .fitting import fitting
from .rack import Rack
from .session import Live, Running, Session
from .settings import Settings
from .transcript import Lane

PLAIN: Lane = "plain"


@dataclass(frozen=True, slots=True)
class Way:
    """A column beside the unsteered one. title: where the page has none of its own for the lane."""

    lane: Lane
    rack: Rack
    title: str = ""


def request(
    session: Session,
    messages: Sequence[Mapping[str, str]],
    ways: Sequence[Rack],
    settings: Settings,
    seed: int | None,
) -> dict[str, Any]:
    """A comparison's body: the unsteered reply, and one steered in each of the ways."""
    body = chat.request(session, messages, (), settings, seed)
    body["variants"] = [chat.steering(way, keep_norm=settings.norm) for way in ways]
    if settings.guard:
        body["steering"] = {"guard": guard.ASKED}
    return body


async def respond(
    api: Api,
    session: Session,
    text: str,
    rack: Rack,
    settings: Settings,
    ways: Sequence[Way],
    *,
    seed: int | None = None,
) -> AsyncIterator[str]:
    """Ask `text` in every way and yield the log as the replies grow, as chat.respond does."""
    transcript = session.transcript
    turn, seed = chat.begun(session, text, rack, settings, seed)
    messages = transcript.messages("steered", settings.system)
    body = request(session, messages, [way.rack for way in ways], settings, seed)
    columns = [Way(PLAIN, ()), *ways]
    own = body.setdefault("steering", {})
    own["id"] = f"ui-{uuid.uuid4().hex}"
    own["trace"] = _trace(session, rack, settings, len(columns))
    running: dict[Lane, Running] = {}
    for way in columns:
        reply = transcript.reply(turn, way.lane, way.rack, pair=True, title=way.title)
        running[way.lane] = Running(reply, own["id"], time.monotonic())
    stream = fitting(api.compare, body, list(running.values()), session)
    merged: Merged[str] = Merged({"all": stream})
    colours = {held.feature: held.colour for held in rack}
    live = Live(running, merged, rack, settings.norm, colours, fixed=True)
    lanes = list(running)
    async for log in chat.shown(session, live, lambda event: _sorted(event, lanes)):
        yield log


def _trace(session: Session, rack: Rack, settings: Settings, columns: int) -> list[str]:
    """Every column has a shadow of its own: only where all of them can run at once."""
    words = chat.traces(session, rack, settings)
    return words if session.rows >= 2 * columns else [w for w in words if w == "activations"]


def _sorted(event: Event[str], lanes: Sequence[Lane]) -> list[Event[Lane]]:
    """An event of the one stream as events of its columns. A column ends with its own finish; the
    end of the stream is that of those which had none.
    """
    if event.chunk is None:
        return [Event(lane, error=event.error) for lane in lanes]
    variant = event.chunk.get("variant")
    index = variant.get("index") if isinstance(variant, Mapping) else None
    if not isinstance(index, int) or index >= len(lanes):
        return []
    told: list[Event[Lane]] = [Event(lanes[index], event.chunk)]
    choices = event.chunk.get("choices") or [{}]
    return [*told, Event(lanes[index])] if choices[0].get("finish_reason") else told
