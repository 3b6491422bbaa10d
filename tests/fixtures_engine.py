"""Fixtures of tests of the engine: one over a tiny model, what is asked of it and what is heard."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from dictionaries.dictionary import Dictionary
    from server.engine.seam import Generation
    from server.engine.types import Change, Delta, Failure, Finish, Request, Steering, Token


@pytest.fixture
def make_engine(
    tokenizer: PreTrainedTokenizerFast, dictionary: Dictionary
) -> Iterator[Callable[..., Any]]:
    """SlotEngines over tiny models, started; closed again after the test."""
    from tiny import tiny_model

    from server.engine.engine import SlotEngine

    engines: list[SlotEngine] = []

    def make(
        family: str = "llama",
        *,
        dictionaries: tuple[Dictionary, ...] | None = None,
        model: Any = None,
        **options: Any,
    ) -> SlotEngine:
        own = (dictionary,) if dictionaries is None else dictionaries
        engine = SlotEngine(
            tiny_model(family) if model is None else model,
            tokenizer,
            {one.info.id: one for one in own},
            **options,
        )
        engines.append(engine)
        engine.start()
        return engine

    yield make
    for engine in engines:
        engine.close()


@dataclass
class Heard:
    """A whole reply, as its reader got it."""

    deltas: list[Delta]
    end: Finish | Failure

    @property
    def tokens(self) -> list[Token]:
        return [token for delta in self.deltas for token in delta.tokens]

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)


async def listen(generation: Generation) -> Heard:
    from server.engine.types import Delta

    deltas: list[Delta] = []
    async for event in generation:
        if isinstance(event, Delta):
            deltas.append(event)
        else:
            return Heard(deltas, event)
    raise AssertionError("the stream ended without a Finish or Failure")


@pytest.fixture(scope="session")
def hear() -> Callable[..., Any]:
    """`await hear(engine, request, ...)`: submit them all at once and read every reply."""

    async def hear(engine: Any, *requests: Request) -> list[Heard]:
        generations = [engine.submit(request) for request in requests]
        return await asyncio.gather(*map(listen, generations))

    return hear


@pytest.fixture(scope="session")
def read() -> Callable[[Generation], Any]:
    """`await read(generation)`: the whole of one reply."""
    return listen


@pytest.fixture(scope="session")
def ask(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Request]:
    """A Request for a raw prompt; greedy, 12 tokens and never ending early unless told."""
    from server.engine.text import encode_raw
    from server.engine.types import Request, Sampling, Steering

    counter = itertools.count()
    unsteered = Steering()

    def ask(
        text: str = "The bridge is red.",
        *,
        id: str | None = None,
        steering: Steering = unsteered,
        changes: tuple[Change, ...] = (),
        trace: bool = False,
        **sampling: Any,
    ) -> Request:
        prompt = encode_raw(tokenizer, text)
        options = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True} | sampling
        name = f"request-{next(counter)}" if id is None else id
        return Request(
            name, prompt.ids, prompt.steerable, Sampling(**options), steering, changes, trace
        )

    return ask


@pytest.fixture(scope="session")
def steer() -> Callable[..., Steering]:
    """Steering from (feature, op, strength[, where[, dictionary]]) tuples."""
    from dictionaries.edits import Op
    from server.engine.types import FeatureEdit, Steering, Where

    def steer(*edits: tuple[Any, ...], keep_norm: bool = False) -> Steering:
        made = []
        for feature, op, strength, *rest in edits:
            where, name = (*rest, *("all", "tiny")[len(rest) :])
            edit = Op(op).edit(strength)
            made.append(FeatureEdit(name, feature, Op(op), strength, edit, Where(where)))
        return Steering(tuple(made), keep_norm)

    return steer
