"""Handlers: a tab opens, the service becomes ready, a key is given, a link is opened."""

from __future__ import annotations

from typing import Any

import gradio as gr

from . import presets, search, share, status
from .desk import Desk, Update, field
from .errors import PresetError, Told
from .session import Session


class Arriving(Desk):
    async def arrive(
        self, request: gr.Request, session: Session, stored: Any, chosen: Any
    ) -> Update:
        """The page has loaded: its address may hold a rack, or name a preset."""
        session.loaded = True
        session.link = str(request.query_params.get("steer") or "")
        session.link_norm = request.query_params.get("norm") == "keep"
        session.preset = str(request.query_params.get("preset") or "")[:400]
        return await self.look_again(session, stored, chosen)

    async def look_again(self, session: Session, stored: Any, chosen: Any) -> Update:
        """Ask how the service is, until it is ready; then show what it has.

        The first look of a session is not always that of a page that loads: where this server was
        started anew under an open tab, the tab's next look or message is.
        """
        if not session.arrived.is_set():
            key = stored.get("key") if isinstance(stored, dict) else None
            session.key = str(key or "")
            # Every tab has a copy of one session, so one that was forgotten would begin before the
            # conversation that its page shows, and thread.js would take it for an older one.
            session.transcript.clear()
        p = self.parts
        try:
            look = await status.look(self.api, session)
            update = self.standing(session, look, chosen) | {p.thread: session.transcript.log()}
            if look.state == "ready":
                update[p.gallery] = presets.gallery(look.presets)
                if session.link or session.preset:
                    update |= await self._open(session, update.get(p.settings, chosen))
        finally:
            session.arrived.set()
        return update

    async def use_key(self, event: gr.EventData, session: Session, chosen: Any) -> Update:
        session.key = field(event, "key").strip()
        stored = {"key": session.key}
        return {self.parts.stored: stored, **await self.look_again(session, stored, chosen)}

    async def preset(self, session: Session, name: str, chosen: Any) -> Update:
        """A preset's rack in place of the one that is there."""
        api = session.api(self.api)
        found = presets.named(await api.presets(), name)
        if found is None:
            raise PresetError(f"There is no preset “{name}” on this server.")
        held = await search.rack_of(api, found.get("edits") or [], session.reads)
        return self.racked(held, found.get("norm") == "keep", chosen)

    async def _open(self, session: Session, chosen: Any) -> Update:
        """The rack of the address; that of a preset where it has no rack of its own."""
        link, session.link = session.link, ""
        name, session.preset = session.preset, ""
        try:
            if link:
                held = await search.rack_of(
                    session.api(self.api), share.decode(link), session.reads
                )
                update = self.racked(held, session.link_norm, chosen)
            else:
                update = await self.preset(session, name, chosen)
        except Told as error:
            return self.toast(f"The link was not opened. {error}")
        session.opened = (update[self.parts.rack], update.get(self.parts.settings, chosen))
        return update
