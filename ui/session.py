"""What the page knows of one browser tab."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from .client import Api
from .compare import Merged
from .errors import ApiError
from .rack import Rack
from .transcript import Lane, Reply, Transcript


@dataclass
class Running:
    """One reply that is being written. Times are time.monotonic() seconds.

    dropped: turns left out at the front of the prompt, because it did not fit the context.
    """

    reply: Reply
    generation: str
    started: float
    first: float | None = None
    reason: str = ""
    receipt: Any = None
    ended: bool = False
    dropped: int = 0


@dataclass
class Live:
    """The turn that is being answered. `rack` and `keep_norm` are what steers it now.

    fixed: it does not follow the rack.
    """

    running: dict[Lane, Running]
    merged: Merged[Any]
    rack: Rack
    keep_norm: bool
    colours: dict[str, int]
    fixed: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Measured:
    """The last prompt: the bytes of its messages and its tokens, a template's among them. rate:
    tokens for a byte of the reply, where no template counts.
    """

    size: int
    tokens: int
    rate: float


@dataclass
class Session:
    """One tab's state, kept in a gr.State: every handler of the tab gets this same object.

    trouble: why the last call failed, where the page must react to it (no server, no key).
    rows: the service computes at once; 0 where it cannot measure against the unsteered model.
    context: tokens of prompt and reply together; 0: not known.
    thinks: the model marks thinking blocks.
    exact: dictionary id -> whether it can read activations, so whether they can be traced.
    link, preset: the `steer` and the `preset` of the address the tab was opened with, until a ready
    service can resolve them.
    loaded: the first look has begun: the tab has its page from this server, or has been told that
    it was started anew.
    arrived: the first look at the service is over. opened: the rack and settings that it brought.
    """

    transcript: Transcript = field(default_factory=Transcript)
    live: Live | None = None
    key: str = ""
    model: str = ""
    exact: dict[str, bool] = field(default_factory=dict)
    rows: int = 0
    context: int = 0
    thinks: bool = False
    measured: Measured | None = None
    trouble: ApiError | None = None
    link: str = ""
    link_norm: bool = False
    preset: str = ""
    loaded: bool = False
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    opened: tuple[Any, Any] | None = None

    def reads(self, ref: object) -> bool:
        """Whether the dictionary of a feature can read activations, as far as is known."""
        return self.exact.get(str(ref).rpartition("/")[0], True)

    def api(self, api: Api) -> Api:
        return api.keyed(self.key)
