"""POST /v1/chat/completions and /v1/completions. Whatever refuses does so before the first byte."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from ..completions import ChatWriter, TextWriter
from ..deck import Deck
from ..jobs import Job
from ..prepare import Ask, prepare_chat, prepare_completion
from ..schemas.replies import ChatCompletion, TextCompletion
from ..schemas.requests import ChatRequest, CompletionRequest
from ..service import Service
from ..stream import answered
from .common import ServiceDep, refusals

router = APIRouter(tags=["generate"])

STREAM = {"schema": {"type": "string", "description": "chunks as `data:` lines; `[DONE]` last"}}
CROWDED = refusals(
    {
        413: "the prompt leaves no room for a reply in the context",
        429: "the queue is full; Retry-After says when to come back",
        500: "a step of this reply failed",
    }
)


def replies(model: type) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model, "content": {"text/event-stream": STREAM}}, **CROWDED}


@asynccontextmanager
async def admitted(service: Service, make: Callable[[Deck], Ask]) -> AsyncIterator[Job]:
    """Admission is over before a route runs; the release comes last, whatever happens between.

    The body is read here alone: a route that asked for it as well would have it checked twice.
    """
    job = service.admit(await service.prepare(make))
    try:
        yield job
    finally:
        service.release(job)


async def admit_chat(body: ChatRequest, service: ServiceDep) -> AsyncIterator[Job]:
    async with admitted(service, lambda deck: prepare_chat(deck, body)) as job:
        yield job


async def admit_completion(body: CompletionRequest, service: ServiceDep) -> AsyncIterator[Job]:
    async with admitted(service, lambda deck: prepare_completion(deck, body)) as job:
        yield job


@router.post(
    "/chat/completions", responses=replies(ChatCompletion), summary="Reply to a conversation"
)
async def chat(request: Request, job: Annotated[Job, Depends(admit_chat)]) -> Response:
    """OpenAI's chat completions, with features steered as `steering` (or `model@preset`) says."""
    return await answered(ChatWriter(job), request)


@router.post("/completions", responses=replies(TextCompletion), summary="Continue a text")
async def completion(request: Request, job: Annotated[Job, Depends(admit_completion)]) -> Response:
    """OpenAI's completions: the prompt as it is, no chat template around it."""
    return await answered(TextWriter(job), request)
