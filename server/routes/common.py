"""What every route may ask for."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from ..deck import Deck
from ..service import Service


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(service_of)]


def deck_of(service: ServiceDep) -> Deck:
    """Raises NotReady while the model loads."""
    return service.deck


DeckDep = Annotated[Deck, Depends(deck_of)]
