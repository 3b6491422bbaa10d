"""A strength sweep: one question answered at several strengths of the rack, as columns.

The service makes all of them in one batch from one seed (POST /v1/compare), so that only the
strength differs. The column with the rack as it stands is the one the conversation goes on with.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from . import chat, guard
from . import rack as racks
from .client import Api
from .compare import Event, Merged
from .errors import RackError
from .fitting import fitting
from .rack import Rack
from .session import Live, Running, Session
from .settings import Settings
from .slider import FURTHEST
from .transcript import Lane

UNSCALED = ("ablate", "at_most")  # no strength; a cap is the stronger the lower it is
PARTS = (0.5, 1.0, 1.5, 2.0)  # of the rack's strengths; the unsteered reply stands first
LANES: tuple[Lane, ...] = ("plain", "half", "steered", "more", "double")


def check(rack: Rack) -> None:
    """RackError where nothing in the rack has a strength to sweep."""
    if not able(rack):
        raise RackError(
            "A sweep needs a feature that is switched on and has a strength to turn up: one that is"
            " ablated or held at most at a level has none."
        )


def able(rack: Rack) -> bool:
    return any(held.on and held.op not in UNSCALED for held in rack)


def scaled(rack: Rack, part: float) -> Rack:
    """The features that act, each moved to `part` of the way from its neutral strength where it has
    one.
    """
    return tuple(held.model_copy(update={"strength": _at(held, part)}) for held in rack if held.on)


def _at(held: racks.Entry, part: float) -> float:
    if held.op in UNSCALED:
        return held.strength
    neutral = 1.0 if held.op == "scale" else 0.0
    strength = neutral + part * (held.strength - neutral)
    return max(-FURTHEST, min(FURTHEST, round(strength, 6)))


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
    *,
    seed: int | None = None,
) -> AsyncIterator[str]:
    """Ask `text` at every strength and yield the log as the replies grow, as chat.respond does.

    Raises what `check` does.
    """
    check(rack)
    transcript = session.transcript
    turn = transcript.ask(text, rack)
    seed = seed if settings.seed is None else settings.seed
    turn.seed = seed = random.randrange(chat.SEEDS) if seed is None else seed
    turn.steering = chat.steering(rack, keep_norm=settings.norm)
    ways: list[Rack] = [(), *(scaled(rack, part) for part in PARTS)]
    messages = transcript.messages("steered", settings.system)
    body = request(session, messages, ways[1:], settings, seed)
    own = body.setdefault("steering", {})
    own |= {"id": f"ui-{uuid.uuid4().hex}", "trace": _trace(session, rack, settings)}
    running: dict[Lane, Running] = {}
    for lane, way in zip(LANES, ways, strict=True):
        reply = transcript.reply(turn, lane, way, pair=True)
        running[lane] = Running(reply, own["id"], time.monotonic())
    stream = fitting(api.compare, body, list(running.values()), session)
    merged: Merged[str] = Merged({"all": stream})
    colours = {held.feature: held.colour for held in rack}
    live = Live(running, merged, rack, settings.norm, colours, fixed=True)
    async for log in chat.shown(session, live, _sorted):
        yield log


def _trace(session: Session, rack: Rack, settings: Settings) -> list[str]:
    """Every column has a shadow of its own: only where all of them can run at once."""
    words = chat.traces(session, rack, settings)
    return words if session.rows >= 2 * len(LANES) else [w for w in words if w == "activations"]


def _sorted(event: Event[str]) -> list[Event[Lane]]:
    """An event of the one stream as events of its columns. A column ends with its own finish; the
    end of the stream is that of those which had none.
    """
    if event.chunk is None:
        return [Event(lane, error=event.error) for lane in LANES]
    variant = event.chunk.get("variant")
    index = variant.get("index") if isinstance(variant, Mapping) else None
    if not isinstance(index, int) or index >= len(LANES):
        return []
    told: list[Event[Lane]] = [Event(LANES[index], event.chunk)]
    choices = event.chunk.get("choices") or [{}]
    return [*told, Event(LANES[index])] if choices[0].get("finish_reason") else told
