"""What every route may ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from fastapi import Depends, Request

from ..deck import Deck
from ..schemas.replies import ErrorReply
from ..service import Service


def refusals(about: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """For the schema: statuses that answer with the error object, and when."""
    return {status: {"model": ErrorReply, "description": text} for status, text in about.items()}


REFUSALS = refusals(
    {
        400: "the request contradicts itself, the model or a dictionary",
        401: "an API key is needed",
        404: "no such model, preset, feature or generation",
        503: "the model is still loading, or the engine ended",
    }
)


# Both are coroutines, so that FastAPI does not run them in its few threads: those may all be
# taken by slow look-ups, and a prober, or who stops a reply, would wait for them.


async def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(service_of)]


async def deck_of(service: ServiceDep) -> Deck:
    """Raises NotReady while the model loads."""
    return service.deck


DeckDep = Annotated[Deck, Depends(deck_of)]


# At a time; the others wait without a thread. Most of a look-up is Python, of which one thread does
# some at a time: forty at once would leave the engine's hardly a turn. A scan reads a whole
# decoder, and must not make the quick ones wait.
LOOK_UPS, SCANS = 2, 1


async def look_up(request: Request) -> AsyncIterator[None]:
    async with request.app.state.look_ups:
        yield


async def scan(request: Request) -> AsyncIterator[None]:
    async with request.app.state.scans:
        yield


# Over before the answer is sent: who reads it slowly keeps nobody waiting.
LookUp, Scan = Depends(look_up, scope="function"), Depends(scan, scope="function")
