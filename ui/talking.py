"""Handlers: ask, answer again, stop, begin anew, and steer the reply that is being written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import gradio as gr

from . import chat, columns, rack, repeat, settings, singly, status, sweep
from .arriving import Arriving
from .desk import NOTHING, Update, field, tells, tells_all
from .errors import ApiError, Told
from .session import Session
from .typed import whole

ARRIVAL = 3.0  # seconds a message waits for the page's first look at the service


class Around(NamedTuple):
    """What a message is answered with, in the order of the page's inputs: the tab, its rack and
    settings as the browser has them, the switches, and what the browser keeps among them.
    """

    session: Session
    held: Any
    chosen: Any
    compare: bool
    swept: bool
    stored: Any
    alone: bool = False


class Talking(Arriving):
    @tells_all
    async def ask(self, text: str, *around: Any) -> AsyncIterator[Update]:
        """What stands in the message field."""
        said = whole(str(text or "").strip())
        if not said:
            yield NOTHING
            return
        try:
            async for update in self._talk(said, Around(*around)):
                yield update
        except Told as error:  # before it stood in the conversation
            yield self.toast(str(error), unsaid=said)

    @tells_all
    async def show(self, event: gr.EventData, *around: Any) -> AsyncIterator[Update]:
        """An example prompt of the first screen, with its preset loaded first where it has one."""
        text, name = field(event, "text"), field(event, "preset")
        async for update in self._talk(text, Around(*around), preset=name):
            yield update

    @tells_all
    async def again(self, *around: Any) -> AsyncIterator[Update]:
        """The last question once more, with the rack as it is now."""
        now = Around(*around)
        if now.session.live is not None:
            yield NOTHING
            return
        async for update in self._talk(None, now):
            yield update

    async def _talk(
        self, text: str | None, around: Around, *, preset: str = ""
    ) -> AsyncIterator[Update]:
        """Ask `text`, or the last question again where it is None."""
        session, held, chosen, compare, swept, stored, alone = around
        p = self.parts
        if not session.arrived.is_set():
            shown = await self._arrival(session, stored, chosen)
            yield shown or NOTHING
            # The rack of a link that was still being opened is not what the browser sent.
            held, chosen = session.opened or (held, shown.get(p.settings, chosen))
        if text is None and not session.transcript.turns:
            yield NOTHING
            return
        if preset:
            loaded = await self.preset(session, preset, chosen)
            yield loaded
            held, chosen = loaded[p.rack], loaded.get(p.settings, chosen)
        checked, fields = rack.parse(held), settings.parse(chosen)
        _may_talk(session)
        # Before the last turn is taken back: a rack may be refused.
        ways = singly.ways(checked) if alone else sweep.ways(checked) if swept else []
        taken, seed = None, None
        if text is None:
            taken, seed = repeat.take_back(session, checked, fields)
            text = taken.turn.user
        api, pair = session.api(self.api), bool(compare)
        if ways:
            logs = columns.respond(api, session, text, checked, fields, ways, seed=seed)
        else:
            logs = chat.respond(api, session, text, checked, fields, compare=pair, seed=seed)
        async for log in logs:
            yield {p.thread: log}
        if taken is not None and repeat.put_back(session, taken):
            said = self.toast(str(session.trouble)) if session.trouble is not None else {}
            yield {p.thread: session.transcript.latest(), **said}
        if session.trouble is not None:
            yield await self._troubled(session, session.trouble, stored, chosen)

    async def _arrival(self, session: Session, stored: Any, chosen: Any) -> Update:
        """Wait for the look of a page that loads, where something is asked before it has ended.

        Where no page loads, this server was started anew under an open tab: look here, once.
        """
        try:
            async with asyncio.timeout(ARRIVAL):
                await session.arrived.wait()
        except TimeoutError:
            if not session.loaded:
                session.loaded = True
                anew = "The server was started anew and has forgotten this conversation."
                return self.toast(anew) | await self.look_again(session, stored, chosen)
            await session.arrived.wait()
        return {}

    async def _troubled(
        self, session: Session, trouble: ApiError, stored: Any, chosen: Any
    ) -> Update:
        """What a failed reply says of the service as a whole."""
        if trouble.code == "model_not_found":  # another model is served at that address by now
            return await self.look_again(session, stored, chosen)
        look = status.trouble(trouble)
        return NOTHING if look.state == "broken" else self.standing(session, look, chosen)

    async def whole(self, session: Session) -> Update:
        """All of the conversation, for a page that has missed some of it."""
        return {self.parts.thread: session.transcript.log()}

    async def edit(self, session: Session) -> Update:
        """Take the last exchange back: the page has put its question into the message field."""
        if session.live is not None:
            return NOTHING
        session.transcript.shorten()
        return await self.whole(session)

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


def _may_talk(session: Session) -> None:
    if session.live is not None:
        raise Told("A reply is still being written. Stop it first: Esc, or the Stop button.")
    if not session.model:
        raise Told("The model is not ready yet; the line at the top says why.")
