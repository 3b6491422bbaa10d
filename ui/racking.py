"""Handlers: find features, look at them, fill the rack, keep it and take it elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr

from . import card, exporting, presets, rack, search, settings, share, status
from .desk import Update, field, numbers, tells
from .errors import ApiError
from .session import Session
from .talking import Talking
from .typed import whole


def acquainted(handler: Callable[..., Awaitable[Update]]) -> Callable[..., Awaitable[Update]]:
    """A handler that asks the service, after the first look where its tab has not had one: a server
    that was started anew under it holds no key, but the browser does.
    """

    # Not functools.wraps: Gradio would read the inputs off the handler, which gets no `stored`.
    async def after(
        self: Racking, event: gr.EventData, session: Session, stored: Any, chosen: Any, *held: Any
    ) -> Update:
        first: Update = {}
        if not session.arrived.is_set() and not session.loaded:
            first = await self._arrival(session, stored, chosen)
        chosen = first.get(self.parts.settings, chosen)
        return first | await handler(self, event, session, chosen, *held)

    return after


class Racking(Talking):
    @acquainted
    async def find(self, event: gr.EventData, session: Session, _chosen: Any) -> Update:
        asked = event._data if isinstance(event._data, dict) else {}
        known = tuple(session.exact)
        return {self.parts.search: await search.find(session.api(self.api), asked, known)}

    @acquainted
    @tells
    async def add(self, event: gr.EventData, session: Session, _chosen: Any, held: Any) -> Update:
        checked = rack.parse(held)
        found = await session.api(self.api).feature(field(event, "ref"))
        reads = session.reads(found.get("ref"))
        return {self.parts.rack: rack.joined(rack.add(checked, found, reads=reads))}

    @acquainted
    async def details(self, event: gr.EventData, session: Session, _chosen: Any) -> Update:
        """The card, without the neighbours: to find those a whole decoder may have to be read."""
        ref = field(event, "ref")
        shown = {"ref": ref, "n": next(numbers)}
        try:
            told = card.html(await session.api(self.api).feature(ref))
        except ApiError as error:
            return {self.parts.card: {**shown, "html": card.refused(str(error))}}
        return {self.parts.card: {**shown, "html": told, "wants": True}}

    @acquainted
    async def near(self, event: gr.EventData, session: Session, _chosen: Any) -> Update:
        """The neighbours of the card that is shown, which asks for them once it is there."""
        ref = field(event, "ref")
        try:
            neighbours = await session.api(self.api).neighbours(ref)
        except ApiError:  # a dictionary may be unable to tell; the rest of the card still stands
            neighbours = []
        told = card.nearest(neighbours)
        return {self.parts.card: {"ref": ref, "n": next(numbers), "near": told}}

    @tells
    async def link(self, session: Session, held: Any, chosen: Any) -> Update:
        """The rack's link, which the page's address follows."""
        return {
            self.parts.export: {"link": _link(session, rack.parse(held), settings.parse(chosen))}
        }

    @tells
    async def export(self, session: Session, held: Any, chosen: Any, text: str) -> Update:
        """The last question as it would be asked with this rack, and the rack's link.

        Before the first question: what stands in the message field, or an example.
        """
        checked, fields = rack.parse(held), settings.parse(chosen)
        asked, key = whole(str(text or "")), bool(session.key)
        body = exporting.request(session, checked, fields, asked)
        exported = {
            "curl": share.curl(self.url, body, key=key),
            "python": share.python(self.url, body, key=key),
            "docs": f"{self.url}/docs",
            "link": _link(session, checked, fields),
        }
        return {self.parts.export: exported}

    @acquainted
    @tells
    async def load(self, event: gr.EventData, session: Session, chosen: Any) -> Update:
        return await self.preset(session, field(event, "name"), chosen)

    @acquainted
    @tells
    async def save(self, event: gr.EventData, session: Session, chosen: Any, held: Any) -> Update:
        checked, fields = rack.parse(held), settings.parse(chosen)
        api, title = session.api(self.api), field(event, "title")
        name, body = presets.saved(title, checked, await api.presets(), keep_norm=fields.norm)
        await api.save_preset(name, body)
        update = await self._gallery(session)
        for one in update[self.parts.gallery]:
            if one["name"] == name:
                one["saved"] = next(numbers)  # gallery.js says so
        return update

    @acquainted
    @tells
    async def remove(self, event: gr.EventData, session: Session, _chosen: Any) -> Update:
        await session.api(self.api).delete_preset(field(event, "name"))
        return await self._gallery(session)

    async def _gallery(self, session: Session) -> Update:
        look = await status.look(self.api, session)
        p, talk = self.parts, session.transcript
        update = {p.gallery: presets.gallery(look.presets)}
        # The first screen shows some of them; where there is a conversation, it need not be sent.
        return update if talk.turns else {**update, p.thread: talk.log()}


def _link(session: Session, held: rack.Rack, fields: settings.Settings) -> str | None:
    """None until the link that the page was opened with is the rack: the address is to keep it."""
    opening = session.link or session.preset or not session.arrived.is_set()
    return None if opening else share.encode(held, keep_norm=fields.norm)
