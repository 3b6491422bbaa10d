"""/openapi.json as the API behaves, and /docs from files of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

STATIC = "/docs/static"


# Without one Swagger UI fills a form with every field's bounds, which contradict one another.
_ASKED = [{"role": "user", "content": "Who are you?"}]
_BRIDGE = {"feature": "golden-gate-bridge", "op": "clamp", "strength": 3.5}
EXAMPLES: Mapping[str, dict[str, Any]] = {
    "ChatRequest": {"messages": _ASKED, "steering": {"edits": [_BRIDGE]}},
    "CompletionRequest": {
        "prompt": "I am",
        "max_tokens": 40,
        "steering": {"edits": [_BRIDGE]},
    },
    "CompareRequest": {
        "messages": _ASKED,
        "variants": [
            {"label": "some", "edits": [_BRIDGE]},
            {"label": "too much", "edits": [{**_BRIDGE, "strength": 12}]},
        ],
    },
    "ActivationsBody": {"text": "The fog came in over the old bridge.", "top": 3, "limit": 10},
    "ContrastBody": {
        "more": ["Ahoy, matey, hoist the sails!", "Arr, where be me rum?"],
        "less": ["Hello, please raise the blinds.", "Where is my coffee?"],
    },
    "SuggestBody": {"wish": "talk like a pirate"},
    "SteeringChange": {"edits": [{**_BRIDGE, "strength": 0.5}]},
}


def add(app: FastAPI, root: str, *, keyed: bool) -> None:
    """Swagger UI at /docs, as `fastapi-offline` carries it: FastAPI's own page would fetch its
    scripts from a CDN.

    root: the path before it all, that the reader's browser knows. keyed: /v1 wants a key.
    """
    app.openapi = lambda: schema(app, root, keyed)  # type: ignore[method-assign]
    folder = files("fastapi_offline") / "static"
    app.mount(STATIC, StaticFiles(directory=str(folder)), name="docs-static")

    @app.get("/docs", include_in_schema=False)
    async def page() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title} API",
            swagger_js_url=f"{root}{STATIC}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{STATIC}/swagger-ui.css",
            swagger_favicon_url=f"{root}{STATIC}/favicon.png",
        )


def schema(app: FastAPI, root: str, keyed: bool) -> dict[str, Any]:
    """FastAPI's, less its 422: a wrong request is a 400 with OpenAI's error object here. With
    bodies to try, and the key that is wanted.
    """
    if app.openapi_schema is None:
        made = FastAPI.openapi(app)
        parts = made["components"]
        if root:
            made["servers"] = [{"url": root}]
        for path, operations in made["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                if keyed and path.startswith("/v1/"):
                    operation["security"] = [{"bearer": []}]
        for name in ("HTTPValidationError", "ValidationError"):
            parts["schemas"].pop(name, None)
        for name, example in EXAMPLES.items():
            parts["schemas"][name]["examples"] = [example]
        if keyed:
            parts["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    return app.openapi_schema or {}
