"""POST /v1/compare: the unsteered reply and its variants, side by side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from ..comparison import CompareWriter, prepare_compare
from ..jobs import Job
from ..schemas.compare import CompareRequest
from ..schemas.replies import Comparison
from ..stream import answered
from .common import ServiceDep
from .generate import admitted, replies

router = APIRouter(tags=["generate"])


async def admit(body: CompareRequest, service: ServiceDep) -> AsyncIterator[Job]:
    async with admitted(service, lambda deck: prepare_compare(deck, body)) as job:
        yield job


@router.post(
    "/compare",
    responses=replies(Comparison),
    summary="Answer a conversation unsteered and in several steered ways",
)
async def compare(request: Request, job: Annotated[Job, Depends(admit)]) -> Response:
    """All replies come from one batch and one seed, so that only the steering differs; variant 0 is
    the unsteered one. Streamed, every chunk says which `variant` it belongs to, and each variant
    ends with its receipt.
    """
    return await answered(CompareWriter(job), request)
