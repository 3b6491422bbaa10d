"""A running reply: change what is edited, or stop it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from ..receipt import applied
from ..schemas.replies import Changed, Deleted
from ..schemas.steering import SteeringChange
from .common import ServiceDep

router = APIRouter(prefix="/generations", tags=["generate"])

Id = Annotated[str, Path(max_length=200, description="the `id` of a reply that is streaming")]


@router.patch("/{id}/steering", summary="Steer a reply while it streams")
async def steer(id: Id, body: SteeringChange, service: ServiceDep) -> Changed:
    """Replaces all its edits; holds from generated token `from_token` on."""
    at, resolved = await service.steer(id, body)
    return {
        "id": id,
        "object": "generation.steering",
        "from_token": at,
        "applied": applied(resolved.steering, resolved.labels),  # type: ignore[typeddict-item]
    }


@router.delete("/{id}", summary="Stop a reply")
async def stop(id: Id, service: ServiceDep) -> Deleted:
    """Its stream finishes with `finish_reason` "cancelled" and a receipt of what was said."""
    service.stop(id)
    return {"id": id, "object": "generation", "deleted": True}
