"""An engine that keeps what it computed, one that does not, and the turns of a chat with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from server.engine.prefix import BLOCK
from server.engine.types import Request

SPACE = 2**22  # bytes; the tiny models keep some hundred blocks in it
TEXT = "The bridge is long and red, and fog lies on the bay below it in the morning."


@pytest.fixture
def warm(make_engine) -> Any:
    return make_engine(prefix_cache=SPACE)


@pytest.fixture
def cold(make_engine) -> Any:
    """What it must not be told from."""
    return make_engine()


@pytest.fixture
def same(cold, hear) -> Callable[..., Any]:
    """`await same(engine, request)`: its reply, which is the cold engine's: tokens and chances."""

    async def same(engine: Any, request: Request) -> Any:
        sampling = replace(request.sampling, logprobs=5)
        request = replace(request, sampling=sampling)
        [own] = await hear(engine, request)
        [expected] = await hear(cold, request)
        assert own.ids == expected.ids
        for got, wanted in zip(own.tokens, expected.tokens, strict=True):
            assert got.logprob == pytest.approx(wanted.logprob, abs=1e-3)
            assert [t.logprob for t in got.top] == pytest.approx(
                [t.logprob for t in wanted.top], abs=1e-3
            )
        assert replace(own.end, cached_tokens=0) == expected.end
        return own

    return same


def turn(
    before: Request, reply: Any, text: str, ask: Callable[..., Request], **options: Any
) -> Any:
    """The next request of a chat: all that was said, and `text`."""
    new = ask(text, **options)
    said = before.prompt + tuple(reply.ids)
    return replace(
        new,
        prompt=said + new.prompt,
        steerable=before.steerable + (True,) * len(reply.ids) + new.steerable,
    )


def whole(tokens: int) -> int:
    return tokens // BLOCK * BLOCK
