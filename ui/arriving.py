"""Handlers: a tab opens, the service becomes ready, a key is given, a link is opened."""

from __future__ import annotations

from typing import Any

import gradio as gr

from . import presets, search, share, status
from .desk import Desk, Update, field
from .errors import Told
from .session import Session


class Arriving(Desk):
    async def arrive(
        self, request: gr.Request, session: Session, stored: Any, chosen: Any
    ) -> Update:
        """The page has loaded: its address may hold a rack."""
        session.loaded = True
        session.link = str(request.query_params.get("steer") or "")
        session.link_norm = request.query_params.get("norm") == "keep"
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
                if session.link:
                    update |= await self._open_link(session, update.get(p.settings, chosen))
        finally:
            session.arrived.set()
        return update

    async def use_key(self, event: gr.EventData, session: Session, chosen: Any) -> Update:
        session.key = field(event, "key").strip()
        stored = {"key": session.key}
        return {self.parts.stored: stored, **await self.look_again(session, stored, chosen)}

    async def _open_link(self, session: Session, chosen: Any) -> Update:
        link, session.link = session.link, ""
        try:
            held = await search.rack_of(session.api(self.api), share.decode(link))
        except Told as error:
            return self.toast(f"The link was not opened. {error}")
        update = self.racked(held, session.link_norm, chosen)
        session.opened = (update[self.parts.rack], update.get(self.parts.settings, chosen))
        return update
