"""What happens on the page: Gradio's events in, updates of its parts out.

Thin on purpose: the work is in chat, search, presets, card, share and status. Every error of the
service becomes a sentence in a toast or in the banner, and none of them stops the page.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from . import card, chat, presets, rack, search, settings, share, status
from .client import Api, ApiError
from .layout import Parts
from .rack import RackError
from .session import Session
from .settings import Settings, SettingsError
from .share import LinkError

Update = dict[Any, Any]
NOTHING: Update = gr.skip()  # an empty dict would be taken for a value


def field(event: gr.EventData, name: str) -> str:
    """A text of a widget's event; empty where a client sent something else."""
    data = event._data
    value = data.get(name) if isinstance(data, dict) else None
    return value[:400] if isinstance(value, str) else ""


def with_(chosen: Any, **changes: Any) -> dict[str, Any]:
    """The settings widget's value with some fields changed and the others as they were left."""
    held = chosen if isinstance(chosen, dict) else Settings().model_dump()
    return {**held, **changes}


class Handlers:
    """The page's handlers over one service. Each takes the values of its inputs, in order."""

    def __init__(self, api: Api, parts: Parts, public_url: str) -> None:
        self._api = api
        self._parts = parts
        self._url = public_url.rstrip("/")

    # -- arriving -------------------------------------------------------------------------------

    async def arrive(
        self, request: gr.Request, session: Session, stored: Any, chosen: Any
    ) -> Update:
        key = stored.get("key") if isinstance(stored, dict) else None
        session.key = str(key or "")
        session.link = str(request.query_params.get("steer") or "")
        session.link_norm = request.query_params.get("norm") == "keep"
        return await self.look_again(session, chosen)

    async def look_again(self, session: Session, chosen: Any) -> Update:
        look = await status.look(self._api, session)
        p = self._parts
        update = self._standing(session, look, chosen) | {p.thread: session.transcript.log()}
        if look.state == "ready":
            update[p.gallery] = presets.gallery(look.presets)
            if session.link:
                update |= await self._open_link(session, update[p.settings])
        return update

    async def use_key(self, event: gr.EventData, session: Session, chosen: Any) -> Update:
        session.key = field(event, "key").strip()
        return {self._parts.stored: {"key": session.key}, **await self.look_again(session, chosen)}

    async def _open_link(self, session: Session, chosen: Any) -> Update:
        link, session.link = session.link, ""
        try:
            held = await search.rack_of(session.api(self._api), share.decode(link))
        except (ApiError, RackError, LinkError) as error:
            gr.Warning(f"The link was not opened. {error}")
            return {}
        return self._racked(held, session.link_norm, chosen)

    def _racked(self, held: rack.Rack, norm: bool, chosen: Any) -> Update:
        p = self._parts
        return {p.rack: rack.value(held), p.settings: with_(chosen, norm=norm)}

    def _standing(self, session: Session, look: status.Look, chosen: Any) -> Update:
        p = self._parts
        return {
            p.top: look.value(session),
            p.timer: gr.Timer(active=look.state in ("loading", "unreachable")),
            p.settings: with_(chosen, ask_key=look.state == "key" or bool(session.key)),
        }

    # -- talking --------------------------------------------------------------------------------

    async def ask(self, text: str, session: Session, *talk: Any) -> AsyncIterator[Update]:
        if not str(text or "").strip():
            yield NOTHING
            return
        async for update in self._talk(str(text).strip(), session, *talk):
            yield update

    async def show(
        self, event: gr.EventData, session: Session, held: Any, chosen: Any, compare: bool
    ) -> AsyncIterator[Update]:
        """An example prompt of the first screen, with its preset loaded first where it has one."""
        name, p = field(event, "preset"), self._parts
        if name:
            loaded = await self._preset(session, name, chosen)
            yield loaded or NOTHING
            if not loaded:
                return
            held, chosen = loaded[p.rack], loaded[p.settings]
        async for update in self._talk(field(event, "text"), session, held, chosen, compare):
            yield update

    async def again(self, session: Session, *talk: Any) -> AsyncIterator[Update]:
        """Answer the last question again, with the rack as it is now."""
        text = None if session.live is not None else session.transcript.take_back()
        if text is None:
            yield NOTHING
        else:
            async for update in self._talk(text, session, *talk):
                yield update

    async def _talk(
        self, text: str, session: Session, held: Any, chosen: Any, compare: bool
    ) -> AsyncIterator[Update]:
        p = self._parts
        if session.live is not None:
            gr.Info("A reply is still being written. Stop it first: Esc, or the Stop button.")
            yield NOTHING
            return
        if not session.model:
            gr.Warning("The model is not ready yet; the line at the top says why.")
            yield NOTHING
            return
        try:
            checked, fields = rack.parse(held), settings.parse(chosen)
        except (RackError, SettingsError) as error:
            gr.Warning(str(error))
            yield NOTHING
            return
        prompt: Update = {p.prompt: ""}
        logs = chat.respond(
            session.api(self._api), session, text, checked, fields, compare=bool(compare)
        )
        async for log in logs:
            yield {p.thread: log, **prompt}
            prompt = {}
        if session.trouble is not None:
            look = status.trouble(session.trouble)
            if look.state != "broken":
                yield self._standing(session, look, chosen)

    async def stop(self, session: Session) -> None:
        await chat.stop(session.api(self._api), session)

    async def fresh(self, session: Session) -> Update:
        await chat.stop(session.api(self._api), session)
        session.transcript.clear()
        return {self._parts.thread: session.transcript.log()}

    async def retune(self, session: Session, held: Any, chosen: Any) -> None:
        if session.live is None:
            return
        try:
            checked, fields = rack.parse(held), settings.parse(chosen)
            await chat.retune(session.api(self._api), session, checked, keep_norm=fields.norm)
        except (ApiError, RackError, SettingsError) as error:
            gr.Warning(str(error))

    # -- the rack -------------------------------------------------------------------------------

    async def find(self, event: gr.EventData, session: Session) -> Any:
        asked = event._data if isinstance(event._data, dict) else {}
        return await search.find(session.api(self._api), asked)

    async def add(self, event: gr.EventData, session: Session, held: Any) -> Any:
        try:
            checked = rack.parse(held)
            found = await session.api(self._api).feature(field(event, "ref"))
            return rack.value(rack.add(checked, found))
        except (ApiError, RackError) as error:
            gr.Warning(str(error))
            return NOTHING

    async def details(self, event: gr.EventData, session: Session) -> Any:
        api, ref = session.api(self._api), field(event, "ref")
        try:
            feature = await api.feature(ref)
        except ApiError as error:
            gr.Warning(str(error))
            return NOTHING
        try:
            neighbours = await api.neighbours(ref)
        except ApiError:  # a dictionary may be unable to tell; the rest of the card still stands
            neighbours = []
        return card.html(feature, neighbours)

    async def export(self, session: Session, held: Any, chosen: Any, text: str) -> Any:
        try:
            checked, fields = rack.parse(held), settings.parse(chosen)
        except (RackError, SettingsError) as error:
            gr.Warning(str(error))
            return NOTHING
        messages = session.transcript.messages("steered", fields.system)
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        if not messages or messages[-1]["role"] != "user":
            messages.append({"role": "user", "content": str(text or "") or presets.EXAMPLES[0]})
        body = chat.request(session, messages, checked, fields, fields.seed)
        key = bool(session.key)
        return {
            "curl": share.curl(self._url, {**body, "stream": True}, key=key),
            "python": share.python(self._url, body, key=key),
            "link": share.encode(checked, keep_norm=fields.norm),
        }

    # -- presets --------------------------------------------------------------------------------

    async def load(self, event: gr.EventData, session: Session, chosen: Any) -> Update:
        return await self._preset(session, field(event, "name"), chosen) or NOTHING

    async def _preset(self, session: Session, name: str, chosen: Any) -> Update:
        api = session.api(self._api)
        try:
            found = presets.named(await api.presets(), name)
            if found is None:
                gr.Warning(f"There is no preset “{name}” any more.")
                return {}
            held = await search.rack_of(api, found.get("edits") or [])
        except (ApiError, RackError) as error:
            gr.Warning(str(error))
            return {}
        return self._racked(held, found.get("norm") == "keep", chosen)

    async def save(self, event: gr.EventData, session: Session, held: Any, chosen: Any) -> Update:
        try:
            checked, fields = rack.parse(held), settings.parse(chosen)
            name, body = presets.saved(field(event, "title"), checked, keep_norm=fields.norm)
            await session.api(self._api).save_preset(name, body)
        except (ApiError, ValueError) as error:
            gr.Warning(str(error))
            return NOTHING
        return await self._gallery(session)

    async def remove(self, event: gr.EventData, session: Session) -> Update:
        try:
            await session.api(self._api).delete_preset(field(event, "name"))
        except ApiError as error:
            gr.Warning(str(error))
            return NOTHING
        return await self._gallery(session)

    async def _gallery(self, session: Session) -> Update:
        look = await status.look(self._api, session)
        p = self._parts
        return {p.gallery: presets.gallery(look.presets), p.thread: session.transcript.log()}
