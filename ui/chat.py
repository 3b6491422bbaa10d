"""Talking: ask, stop, and turn the rack while the reply is being written.

Nothing here knows Gradio: the page passes the values in and shows the log that comes out.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from . import guard, strip, turned
from . import rack as racks
from .client import Api
from .compare import Event, Merged
from .errors import ApiError
from .fitting import fitting
from .rack import Rack
from .session import Live, Running, Session
from .settings import Settings
from .transcript import Lane, Turn

GRACE = 1.5  # seconds a stopped reply has to send its receipt
SEEDS = 2**31


def steering(rack: Rack, *, keep_norm: bool) -> dict[str, Any]:
    """The rack as the `steering` object of a request or of a live change."""
    edits = racks.edits(rack)
    return {"edits": edits} | ({"norm": "keep"} if keep_norm and edits else {})


def request(
    session: Session,
    messages: Sequence[Mapping[str, str]],
    rack: Rack,
    settings: Settings,
    seed: int | None,
) -> dict[str, Any]:
    """A chat completion's body; the export shows the same one, before the first look without a
    model.
    """
    body: dict[str, Any] = {"model": session.model} if session.model else {}
    body |= {"messages": list(messages), **settings.sampling()}
    if seed is not None:
        body["seed"] = seed
    if racks.edits(rack):
        body["steering"] = steering(rack, keep_norm=settings.norm)
        if settings.guard:
            body["steering"]["guard"] = guard.ASKED
    return body


def begun(
    session: Session, text: str, rack: Rack, settings: Settings, seed: int | None
) -> tuple[Turn, int]:
    """The turn that asks `text`, and its seed: the settings', else `seed`, else one drawn."""
    turn = session.transcript.ask(text, rack)
    seed = seed if settings.seed is None else settings.seed
    turn.seed = seed = random.randrange(SEEDS) if seed is None else seed
    turn.steering = steering(rack, keep_norm=settings.norm)
    return turn, seed


async def respond(
    api: Api,
    session: Session,
    text: str,
    rack: Rack,
    settings: Settings,
    *,
    compare: bool = False,
    seed: int | None = None,
) -> AsyncIterator[str]:
    """Ask `text` and yield the log of this turn as the reply grows, about 15 times a second.

    With `compare` the unsteered model answers beside it, from the same seed and in the same batch.
    seed: as `begun` takes it.
    A reply that fails says so in the log; closing the iterator stops the replies.
    """
    transcript = session.transcript
    turn, seed = begun(session, text, rack, settings, seed)
    lanes: tuple[Lane, ...] = ("steered", "plain") if compare else ("steered",)
    running: dict[Lane, Running] = {}
    streams = {}
    for lane in lanes:
        acting = rack if lane == "steered" else ()
        messages = transcript.messages(lane, settings.system)
        body = request(session, messages, acting, settings, seed)
        own = body.setdefault("steering", {})
        own["id"] = f"ui-{uuid.uuid4().hex}"
        if lane == "steered" and (words := traces(session, acting, settings)):
            own["trace"] = words
        reply = transcript.reply(turn, lane, acting, pair=compare)
        running[lane] = Running(reply, own["id"], time.monotonic())
        streams[lane] = fitting(api.stream, body, [running[lane]], session)
    colours = {held.feature: held.colour for held in rack}
    live = Live(running, Merged(streams), rack, settings.norm, colours)
    async for log in shown(session, live, lambda event: [event]):
        yield log


async def shown(
    session: Session, live: Live, lanes: Callable[[Event[Any]], list[Event[Lane]]]
) -> AsyncIterator[str]:
    """The log as the replies grow. lanes: an event of the streams as events of the replies."""
    session.live, session.trouble = live, None
    try:
        yield session.transcript.latest()
        async for batch in live.merged.frames():
            for event in batch:
                for one in lanes(event):
                    _take(session, live, one)
            yield session.transcript.latest()
    finally:
        for running in live.running.values():
            _end(session, running, "cancelled")
        session.live = None
        live.done.set()


async def retune(api: Api, session: Session, rack: Rack, *, keep_norm: bool) -> bool:
    """Steer the reply that is being written by another rack; its next token obeys.

    Whether anything changed: False when nothing is being written or the rack acts as before.
    The log gets a mark at the token from which on the change acts. ApiError: refused.
    """
    live = session.live
    if live is None or live.fixed:
        return False
    before = (live.rack, live.keep_norm)
    wanted = steering(rack, keep_norm=keep_norm)
    if wanted == steering(live.rack, keep_norm=live.keep_norm):
        return False
    live.rack, live.keep_norm = rack, keep_norm
    live.colours |= {held.feature: held.colour for held in rack}
    one = live.running["steered"]
    try:
        answer = await _steer(api, live, one, wanted)
    except ApiError:
        live.rack, live.keep_norm = before
        raise
    if answer is None:
        return False
    told, brief = turned.difference(before[0], rack)
    if not told:
        told = brief = "length kept" if keep_norm else "length free"
    at = answer.get("from_token")
    at = at if isinstance(at, int) else one.reply.tokens
    session.transcript.mark(one.reply, at, told, brief, rack)
    return True


async def stop(api: Api, session: Session) -> None:
    """End the replies that are being written, keeping what they have said."""
    live = session.live
    if live is None:
        return
    ids = {one.generation for one in live.running.values() if not one.ended}
    try:
        async with asyncio.timeout(GRACE):
            await asyncio.gather(*(api.stop(id_) for id_ in ids), return_exceptions=True)
            await live.done.wait()
    except TimeoutError:  # the server did not end the stream: hang up, which ends it too
        live.merged.abandon()


def traces(session: Session, rack: Rack, settings: Settings) -> list[str]:
    """What to ask of the service about every token."""
    words = ["activations"] if _traceable(session, rack) else []
    measured = settings.measure and session.rows > 1 and racks.edits(rack)
    return [*words, "kl", "top"] if measured else words


def _traceable(session: Session, rack: Rack) -> bool:
    """Whether the activations of these features can be read, now and after a live change."""
    used = {held.feature.rpartition("/")[0] for held in rack if held.on} or set(session.exact)
    return all(session.exact.get(name, True) for name in used)


async def _steer(
    api: Api, live: Live, one: Running, wanted: dict[str, Any]
) -> dict[str, Any] | None:
    """The service's answer; None when the reply ended first."""
    while not live.done.is_set() and not one.ended:
        try:
            return await api.steer(one.generation, wanted)
        except ApiError as error:
            if error.status != 404:
                raise
        # Not begun yet (it is being read or waits in the queue), or just ended.
        await asyncio.sleep(0.1)
    return None


def _take(session: Session, live: Live, event: Event[Lane]) -> None:
    one = live.running[event.name]
    if event.chunk is not None:
        _grow(session, live, one, event.chunk)
    elif event.error is not None:
        session.trouble = event.error
        _end(session, one, "error", error=str(event.error), code=event.error.code)
    else:
        _end(session, one, one.reason or "cancelled")


def _grow(session: Session, live: Live, one: Running, chunk: Mapping[str, Any]) -> None:
    choices = chunk.get("choices") or [{}]
    text = (choices[0].get("delta") or {}).get("content") or ""
    traced = strip.tokens(chunk)
    if (text or traced) and one.first is None:
        one.first = time.monotonic()
    count = len(traced) or (1 if text else 0)
    session.transcript.grow(one.reply, text, strip.pack(traced, live.colours), count)
    one.reason = choices[0].get("finish_reason") or one.reason
    if isinstance(chunk.get("steering"), Mapping):
        one.receipt = chunk["steering"].get("receipt") or one.receipt
        for alarm in guard.alarms(chunk["steering"].get("guard")):
            told, brief = guard.marked(alarm)
            session.transcript.mark(one.reply, alarm["at"] + 1, told, brief, live.rack)
    usage = chunk.get("usage")
    if isinstance(usage, Mapping) and isinstance(usage.get("completion_tokens"), int):
        one.reply.tokens = usage["completion_tokens"]


def _end(session: Session, one: Running, reason: str, **more: Any) -> None:
    if one.ended:
        return
    one.ended = True
    if one.receipt is not None:
        more["receipt"] = json.dumps(one.receipt, indent=2)
    if acted := guard.footer(one.receipt):
        more["guard"] = acted
    if one.dropped:
        more["dropped"] = one.dropped
    session.transcript.end(one.reply, reason, time.monotonic() - (one.first or one.started), **more)
