"""The REST application: routes, errors, middleware. No globals: `create_app` makes one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from . import docs, handlers, mount
from .auth import require_key
from .errors import NotFound
from .middleware import Answered, BodyLimit, Hosts, Told
from .receipt import versions
from .routes import compare, features, generate, generations, health, models, presets
from .routes.common import REFUSALS
from .service import Service
from .settings import Settings

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


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
        await loading

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
    handlers.install(app, service.metrics)
    _add_routes(app, settings)
    docs.add(app)
    _add_middleware(app, service, settings)
    if page is not None:
        mount.add_page(app, page)
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
        module.router for module in (generate, compare, generations, models, features, presets)
    ]
    for router in routers:
        v1.include_router(router)
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]

    @v1.api_route("", methods=METHODS, include_in_schema=False)
    @v1.api_route("/{rest:path}", methods=METHODS, include_in_schema=False)
    async def nothing_here(request: Request, rest: str = "") -> None:
        """Before the page's catch-all, so that a wrong path gets an error object and no HTML."""
        where = f"{request.method} /v1/{rest}"
        here = [route.methods or set() for route in routes if route.path_regex.match(f"/{rest}")]
        if here:
            allowed = ", ".join(sorted(set().union(*here)))
            raise handlers.MethodNotAllowed(f"there is no {where}: use {allowed}")
        raise NotFound(f"there is no {where}; /docs lists what there is")

    app.include_router(health.router)
    app.include_router(v1)


def _add_middleware(app: FastAPI, service: Service, settings: Settings) -> None:
    """The last one added is the outermost."""
    app.add_middleware(BodyLimit, limit=settings.max_body)
    app.add_middleware(Hosts, allowed=allowed_hosts(settings))
    app.add_middleware(Answered, metrics=service.metrics)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=METHODS,
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    app.add_middleware(Told, metrics=service.metrics)


def allowed_hosts(settings: Settings) -> tuple[str, ...]:
    """Loopback: our own names only. Elsewhere any, as an address is reached by names we cannot
    know, unless `allowed_hosts` tells them.
    """
    if settings.loopback or settings.allowed_hosts:
        return (*LOOPBACK_HOSTS, settings.host, *settings.allowed_hosts)
    return ("*",)
