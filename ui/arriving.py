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
        """The page has loaded: its address may hold a rack, the browser may keep a key."""
        key = stored.get("key") if isinstance(stored, dict) else None
        session.key = str(key or "")
        session.link = str(request.query_params.get("steer") or "")
        session.link_norm = request.query_params.get("norm") == "keep"
        p = self.parts
        try:
            update = await self.look_again(session, chosen)
            session.opened = (update[p.rack], update[p.settings]) if p.rack in update else None
        finally:
            session.arrived.set()
        return update

    async def look_again(self, session: Session, chosen: Any) -> Update:
        """Ask how the service is, until it is ready; then show what it has."""
        look = await status.look(self.api, session)
        p = self.parts
        update = self.standing(session, look, chosen) | {p.thread: session.transcript.log()}
        if look.state == "ready":
            update[p.gallery] = presets.gallery(look.presets)
            if session.link:
                update |= await self._open_link(session, update[p.settings])
        return update

    async def use_key(self, event: gr.EventData, session: Session, chosen: Any) -> Update:
        session.key = field(event, "key").strip()
        return {self.parts.stored: {"key": session.key}, **await self.look_again(session, chosen)}

    async def _open_link(self, session: Session, chosen: Any) -> Update:
        link, session.link = session.link, ""
        try:
            held = await search.rack_of(session.api(self.api), share.decode(link))
        except Told as error:
            return self.toast(f"The link was not opened. {error}")
        return self.racked(held, session.link_norm, chosen)
