"""Is it up, is it ready, how is it doing."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from ..schemas.listings import Ready
from .common import ServiceDep

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="200 as soon as the process listens")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", summary="200 once replies can be made", responses={503: {"model": Ready}})
async def readyz(service: ServiceDep, response: Response) -> Ready:
    """While loading: 503 with the stage and how far it is (0 to 1)."""
    told = service.summary()
    if not told["ready"]:
        response.status_code = 503
    return told


@router.get("/metrics", summary="Prometheus metrics", include_in_schema=False)
async def metrics(service: ServiceDep) -> Response:
    return Response(service.metrics.page(service.stats()), media_type=CONTENT_TYPE_LATEST)
