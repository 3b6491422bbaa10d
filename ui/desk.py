"""What all handlers of the page share: its parts, its service, and how a refusal is told.

A handler takes the values of its event's inputs and returns updates by component. A refusal is an
exception on the way (errors.Told) and a toast at the end, never a stack trace and never markup.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, ParamSpec

import gradio as gr

from . import rack, status
from .client import Api
from .errors import Told
from .layout import Parts
from .session import Session
from .settings import Settings
from .typed import whole

Update = dict[Any, Any]
NOTHING: Update = gr.skip()  # an empty dict would be taken for a value

P = ParamSpec("P")
numbers = itertools.count(1)  # of answers: two equal ones are two


class Desk:
    """`api` reaches the service; `url` is its address as exported requests name it."""

    def __init__(self, api: Api, parts: Parts, url: str) -> None:
        self.api = api
        self.parts = parts
        self.url = url.rstrip("/")

    def toast(self, text: str, *, unsaid: str = "") -> Update:
        """A line that passes. unsaid: goes back into the message field, if that is still empty."""
        return {self.parts.toast: {"text": text, "unsaid": unsaid, "n": next(numbers)}}

    def standing(self, session: Session, look: status.Look, chosen: Any) -> Update:
        """Header, banner, timer and key field after a look at the service."""
        p = self.parts
        asks = look.state == "key" or bool(session.key)
        # Only a person can give a key; whatever else is wrong may pass.
        timer = gr.Timer(active=look.state not in ("ready", "key"))
        return {p.top: look.value(session), p.timer: timer, **self.changed(chosen, ask_key=asks)}

    def racked(self, held: rack.Rack, norm: bool, chosen: Any) -> Update:
        """Another rack in the widget, and its `norm` among the settings."""
        return {self.parts.rack: rack.value(held), **self.changed(chosen, norm=norm)}

    def changed(self, chosen: Any, **changes: Any) -> Update:
        """The settings with some fields changed; nothing where they are so already.

        `chosen` is what they were at the click: what has been typed since must not be written over
        without need.
        """
        held = chosen if isinstance(chosen, dict) else Settings().model_dump()
        same = all(held.get(name) == value for name, value in changes.items())
        return {} if same else {self.parts.settings: {**held, **changes}}


def tells(handler: Callable[P, Awaitable[Update]]) -> Callable[P, Awaitable[Update]]:
    """A Desk's handler, its refusals made into toasts."""

    @functools.wraps(handler)
    async def told(*args: P.args, **kwargs: P.kwargs) -> Update:
        try:
            return await handler(*args, **kwargs)
        except Told as error:
            return _desk(args).toast(str(error))

    return told


def tells_all(handler: Callable[P, AsyncIterator[Update]]) -> Callable[P, AsyncIterator[Update]]:
    """The same for a handler that yields."""

    @functools.wraps(handler)
    async def told(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Update]:
        updates = handler(*args, **kwargs)
        try:
            async for update in updates:
                yield update
        except Told as error:
            yield _desk(args).toast(str(error))
        finally:
            if isinstance(updates, AsyncGenerator):
                await updates.aclose()

    return told


def _desk(args: tuple[object, ...]) -> Desk:
    assert isinstance(args[0], Desk)
    return args[0]


def field(event: gr.EventData, name: str) -> str:
    """A text of a widget's event; empty where a client sent something else."""
    data = event._data
    value = data.get(name) if isinstance(data, dict) else None
    return whole(value[:400]) if isinstance(value, str) else ""
