"""The REST application: routes, errors, middleware. No globals: `create_app` makes one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware

from . import docs, handlers, mount
from .auth import Keyed, require_key
from .middleware import METHODS, Answered, BodyLimit, Heads, Hosts, Told
from .receipt import versions
from .root_path import Under
from .routes import (
    astray,
    compare,
    features,
    generate,
    generations,
    health,
    models,
    presets,
    reading,
)
from .routes.common import LOOK_UPS, REFUSALS, SCANS
from .service import Service
from .settings import Settings

LEAVE_SECONDS = 2  # at shutdown: for the loader to report, and so to hear of it


def create_app(
    service: Service,
    settings: Settings,
    *,
    page: Any = None,
    on_failure: Callable[[], None] | None = None,
) -> FastAPI:
    """The service as an ASGI app; its lifespan loads the model in the background.

    page: the Gradio Blocks to serve at `/`, if any.
    on_failure: called when loading failed (`/readyz` tells why).
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load(service, on_failure))
        yield
        await service.close()
        await asyncio.wait({loading}, timeout=LEAVE_SECONDS)

    app = FastAPI(
        title="Steerdeck",
        version=versions()["steerdeck"],
        description="Talk to a language model while you turn its features up and down.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.look_ups, app.state.scans = asyncio.Semaphore(LOOK_UPS), asyncio.Semaphore(SCANS)
    handlers.install(app, service.metrics)
    _add_routes(app, settings)
    docs.add(app, settings.root_path, keyed=bool(settings.keys))
    _add_middleware(app, service, settings)
    if page is not None:
        mount.add_page(app, page, settings.root_path)
    return app


async def _load(service: Service, on_failure: Callable[[], None] | None) -> None:
    await service.load()
    if service.readiness.failure is not None and on_failure is not None:
        on_failure()


def _add_routes(app: FastAPI, settings: Settings) -> None:
    v1 = APIRouter(
        prefix="/v1", dependencies=[Depends(require_key(settings.keys))], responses=REFUSALS
    )
    routers = [
        module.router
        for module in (generate, compare, generations, models, reading, features, presets)
    ]
    astray.add_slashes(v1)
    for router in routers:
        v1.include_router(router)
    astray.add_unknown(v1, routers)
    app.include_router(health.router)
    app.include_router(v1)
    astray.add_outside(app, health.router)


def _add_middleware(app: FastAPI, service: Service, settings: Settings) -> None:
    """The last one added is the outermost."""
    app.add_middleware(Heads)
    app.add_middleware(BodyLimit, limit=settings.max_body)
    app.add_middleware(Keyed, keys=settings.keys)
    app.add_middleware(Hosts, allowed=settings.hosts)
    app.add_middleware(Answered, metrics=service.metrics)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=sorted(METHODS),
            allow_headers=["*"],
            allow_private_network=True,  # Chromium asks that of a server on the user's own machine
            expose_headers=["x-request-id", "retry-after"],
        )
    app.add_middleware(Told, metrics=service.metrics)
    if settings.root_path:
        app.add_middleware(Under, root=settings.root_path)
