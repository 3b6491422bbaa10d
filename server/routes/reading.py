"""What fires on a text, and what tells texts apart. The model computes them, beside the replies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from ..reading import (
    ActivationsReader,
    ContrastReader,
    prepare_activations,
    prepare_contrast,
)
from ..schemas.reading import (
    ActivationsBody,
    ActivationsReply,
    ContrastBody,
    ContrastReply,
    SuggestBody,
    SuggestReply,
)
from ..stream import whole
from ..suggesting import SuggestReader, prepare_suggest
from .common import ServiceDep
from .generate import CROWDED, admitted

router = APIRouter(prefix="/features", tags=["features"])


async def read(body: ActivationsBody, service: ServiceDep) -> AsyncIterator[ActivationsReader]:
    async with admitted(service, lambda deck: prepare_activations(deck, body)) as job:
        yield ActivationsReader(job, body)


async def tell_apart(body: ContrastBody, service: ServiceDep) -> AsyncIterator[ContrastReader]:
    async with admitted(service, lambda deck: prepare_contrast(deck, body)) as job:
        yield ContrastReader(job, body)


async def look_for(body: SuggestBody, service: ServiceDep) -> AsyncIterator[SuggestReader]:
    async with admitted(service, lambda deck: prepare_suggest(deck, body)) as job:
        yield SuggestReader(job, body)


@router.post(
    "/activations",
    responses={200: {"model": ActivationsReply}, **CROWDED},
    summary="The features that fire on a text, token by token",
)
async def activations(
    request: Request, reader: Annotated[ActivationsReader, Depends(read)]
) -> Response:
    """What a text makes fire says what its features are about; what steering one of them does is
    another question (its output score, its band).
    """
    return await whole(reader, request, request.app.state.scans)


@router.post(
    "/contrast",
    responses={200: {"model": ContrastReply}, **CROWDED},
    summary="The features that tell two sets of texts apart",
)
async def contrast(
    request: Request, reader: Annotated[ContrastReader, Depends(tell_apart)]
) -> Response:
    """By the difference of their mean activations. Some dozens of texts a side say more than two;
    texts that differ in nothing else say most.
    """
    return await whole(reader, request, request.app.state.scans)


@router.post(
    "/suggest",
    responses={200: {"model": SuggestReply}, **CROWDED},
    summary="Edits that may do what a wish says",
)
async def suggest(
    request: Request, reader: Annotated[SuggestReader, Depends(look_for)]
) -> Response:
    """By what features are called and by what fires on the wish; only those whose strength was
    measured. No language model is asked.
    """
    return await whole(reader, request, request.app.state.scans)
