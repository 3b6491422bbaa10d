"""Paths that nothing is at: an error object that says where the API is.

Without them the page's catch-all would answer, in words of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute

from ..errors import MethodNotAllowed, NotFound
from ..middleware import METHODS

ANY = sorted(METHODS)
# What clients ask for at the root when their base URL does not end in /v1.
OF_V1 = (
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/messages",
    "/models",
    "/models/{rest:path}",
    "/responses",
)
SPOKEN = "this server speaks chat completions, POST /v1/chat/completions"
HINTS = {
    "responses": f'{SPOKEN}: in the AI SDK say openai.chat("…"), in the Agents SDK '
    'set_default_openai_api("chat_completions")',
    "messages": f"{SPOKEN}: use a client of OpenAI's",
}


def add_slashes(v1: APIRouter) -> None:
    """To be added before every other route: some of them would take the slash for a name."""

    @v1.api_route("/{rest:path}/", methods=ANY, include_in_schema=False)
    async def slash(request: Request) -> None:
        raise NotFound(f"there is no {_where(request)}: leave out the slash at its end")


def add_unknown(v1: APIRouter, routers: Sequence[APIRouter]) -> None:
    """Whatever else is asked of /v1. routers: what there is."""
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]

    @v1.api_route("", methods=ANY, include_in_schema=False)
    @v1.api_route("/{rest:path}", methods=ANY, include_in_schema=False)
    async def unknown(request: Request, rest: str = "") -> None:
        here = [route.methods or set() for route in routes if route.path_regex.match(f"/{rest}")]
        if here:
            raise MethodNotAllowed(_where(request), set().union(*here))
        hint = HINTS.get(rest, "/docs lists what there is")
        raise NotFound(f"there is no {_where(request)}: {hint}")


def add_outside(app: FastAPI, health: APIRouter) -> None:
    """What wrong base URLs lead to, and other methods of what needs no key."""

    async def no_v1(request: Request) -> None:
        raise NotFound(
            f"there is no {_where(request)}: the API is at /v1, so use a base URL that ends in /v1"
        )

    async def two_slashes(request: Request) -> None:
        raise NotFound(
            f"there is no {_where(request)}: its path begins with two slashes; use a base URL that "
            "ends in /v1, without a slash behind it"
        )

    async def only_read(request: Request) -> None:
        raise MethodNotAllowed(_where(request), {"GET"})

    for path in OF_V1:
        app.add_api_route(path, no_v1, methods=ANY, include_in_schema=False)
    app.add_api_route("//{rest:path}", two_slashes, methods=ANY, include_in_schema=False)
    others = sorted(METHODS - {"GET", "HEAD"})
    for route in health.routes:
        if isinstance(route, APIRoute):
            app.add_api_route(route.path, only_read, methods=others, include_in_schema=False)


def _where(request: Request) -> str:
    return f"{request.method} {request.scope['path']}"
