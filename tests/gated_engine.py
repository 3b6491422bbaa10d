"""An engine whose every forward pass waits until it is allowed, and what its readers hear."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from server.engine.engine import SlotEngine
from server.engine.pace import Pace
from server.engine.stream import Stream
from server.engine.types import Delta, Token

LONG = "A prompt of some length, to be computed in several chunks."


class Gate:
    """Lets the model run as many passes as it is told to."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.arrived = self.allowed = 0

    def hook(self, *_: Any) -> None:
        with self.changed:
            self.arrived += 1
            self.changed.notify_all()
            own = self.arrived
            assert self.changed.wait_for(lambda: self.allowed >= own, timeout=30)

    def open(self, passes: int = 100_000) -> None:
        with self.changed:
            self.allowed += passes
            self.changed.notify_all()

    async def reached(self) -> None:
        """The engine stands before a pass that is not allowed yet."""
        assert await asyncio.to_thread(self._reached)

    def _reached(self) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.arrived > self.allowed, timeout=30)


@pytest.fixture
def gated(
    make_engine: Callable[..., Any],
    make_model: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    """An engine whose every forward pass waits for the gate; its chunks are full ones, however long
    a pass took, so that it is known how many a prompt takes.
    """
    monkeypatch.setattr(Pace, "chunk", lambda pace, *_: pace.most)
    gate = Gate()

    def make(**options: Any) -> tuple[SlotEngine, Gate]:
        model = make_model()
        engine = make_engine(model=model, **options)
        model.register_forward_pre_hook(gate.hook)
        return engine, gate

    yield make
    gate.open()


async def tokens(stream: Stream, count: int) -> list[Token]:
    """The next tokens of a stream."""
    found: list[Token] = []
    while len(found) < count:
        event = await anext(stream)
        assert isinstance(event, Delta), event
        found += event.tokens
    return found
