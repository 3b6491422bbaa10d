"""Handlers: ask, answer again, stop, begin anew, and steer the reply that is being written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import gradio as gr

from . import chat, presets, rack, search, settings, status, sweep
from .desk import NOTHING, Desk, Update, field, tells, tells_all
from .errors import PresetError, Told
from .session import Session

_ARRIVAL = 10.0  # seconds a message waits for the page's first look at the service


class Talking(Desk):
    @tells_all
    async def ask(
        self, text: str, session: Session, held: Any, chosen: Any, compare: bool, swept: bool
    ) -> AsyncIterator[Update]:
        """What stands in the message field."""
        said = str(text or "").strip()
        if not said:
            yield NOTHING
            return
        async for update in self._talk(said, session, held, chosen, compare, swept):
            yield update

    @tells_all
    async def show(
        self,
        event: gr.EventData,
        session: Session,
        held: Any,
        chosen: Any,
        compare: bool,
        swept: bool,
    ) -> AsyncIterator[Update]:
        """An example prompt of the first screen, with its preset loaded first where it has one."""
        name, p = field(event, "preset"), self.parts
        if name:
            loaded = await self.preset(session, name, chosen)
            yield loaded
            held, chosen = loaded[p.rack], loaded[p.settings]
        async for update in self._talk(field(event, "text"), session, held, chosen, compare, swept):
            yield update

    @tells_all
    async def again(
        self, session: Session, held: Any, chosen: Any, compare: bool, swept: bool
    ) -> AsyncIterator[Update]:
        """The last question once more, with the rack as it is now."""
        if session.live is not None or not session.transcript.turns:
            yield NOTHING
            return
        async for update in self._talk(None, session, held, chosen, compare, swept):
            yield update

    async def _talk(
        self, text: str | None, session: Session, held: Any, chosen: Any, compare: bool, swept: bool
    ) -> AsyncIterator[Update]:
        """Ask `text`, or the last question again where it is None."""
        if not session.arrived.is_set():
            held, chosen = await _arrival(session, held, chosen)
        checked, fields = rack.parse(held), settings.parse(chosen)
        _may_talk(session)
        if swept:
            sweep.check(checked)  # before the last turn is taken back
        p, seed = self.parts, None
        update: Update = {p.prompt: ""}
        if text is None:
            update, taken = {}, chat.answer_again(session, checked, fields)
            text, seed = taken or ("", None)
        api = session.api(self.api)
        if swept:
            logs = sweep.respond(api, session, text, checked, fields, seed=seed)
        else:
            pair = bool(compare)
            logs = chat.respond(api, session, text, checked, fields, compare=pair, seed=seed)
        async for log in logs:
            yield {p.thread: log, **update}
            update = {}
        if session.trouble is not None:
            look = status.trouble(session.trouble)
            if look.state != "broken":
                yield self.standing(session, look, chosen)

    async def stop(self, session: Session) -> None:
        await chat.stop(session.api(self.api), session)

    async def fresh(self, session: Session) -> Update:
        """A new conversation with the same rack."""
        await chat.stop(session.api(self.api), session)
        session.transcript.clear()
        return {self.parts.thread: session.transcript.log()}

    @tells
    async def retune(self, session: Session, held: Any, chosen: Any) -> Update:
        """The rack changed: what is being written obeys from its next token on."""
        if session.live is not None:
            checked, fields = rack.parse(held), settings.parse(chosen)
            await chat.retune(session.api(self.api), session, checked, keep_norm=fields.norm)
        return NOTHING

    async def preset(self, session: Session, name: str, chosen: Any) -> Update:
        """A preset's rack in place of the one that is there."""
        api = session.api(self.api)
        found = presets.named(await api.presets(), name)
        if found is None:
            raise PresetError(f"There is no preset “{name}” any more.")
        held = await search.rack_of(api, found.get("edits") or [])
        return self.racked(held, found.get("norm") == "keep", chosen)


async def _arrival(session: Session, held: Any, chosen: Any) -> tuple[Any, Any]:
    """The rack and settings of a message that was sent before the page knew the service.

    Those of a link that was still being opened are not among what the browser sent with it.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_ARRIVAL):
            await session.arrived.wait()
    return session.opened or (held, chosen)


def _may_talk(session: Session) -> None:
    if session.live is not None:
        raise Told("A reply is still being written. Stop it first: Esc, or the Stop button.")
    if not session.model:
        raise Told("The model is not ready yet; the line at the top says why.")
