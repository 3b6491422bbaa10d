"""The routes of the scripted service: what `ui_stub.py` says, over HTTP."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sse_starlette.sse import EventSourceResponse
from ui_stub import HOSTILE, LABELS, Script, comparison, reply, words


def summary(feature: int, dictionary: str = "foghorn") -> dict[str, Any]:
    label = LABELS[feature % len(LABELS)]
    return {
        "object": "feature",
        "id": feature,
        "ref": f"{dictionary}/{feature}",
        "dictionary": dictionary,
        "label": label,
        "slug": "golden-gate-bridge" if feature == 0 else None,
        "density": 0.004 * (feature + 1),
        "maximum": 10.0 + feature,
        "steerability": 3.5 if feature != 3 else None,
        "output_score": 0.1 * feature,
        "promoted": [" bridge", " gate", "\n", HOSTILE],
        "band": [1.5, 5.0] if feature != 3 else None,
        "recommended": {"op": "clamp", "strength": 2.5},
    }


def details(feature: int, dictionary: str = "foghorn") -> dict[str, Any]:
    return summary(feature, dictionary) | {
        "promoted_logits": [
            {"token": " bridge", "logit": 4.2},
            {"token": " gate", "logit": 3.1},
            {"token": HOSTILE, "logit": 2.0},
        ],
        "suppressed": [{"token": " the", "logit": -1.5}, {"token": " I", "logit": -1.1}],
        "histogram": {"edges": [0.0, 2.5, 5.0, 7.5, 10.0], "counts": [900, 120, 30, 4]},
        "examples": [
            {"tokens": ["The", " Golden", " Gate", HOSTILE], "activations": [0.0, 4.1, 9.8, 0.3]}
        ],
    }


def problem(status: int, message: str, code: str) -> JSONResponse:
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": body}, status)


def build(script: Script) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def gate(request: Request, call_next: Any) -> Any:
        if request.url.path.startswith("/v1"):
            sent = request.headers.get("authorization", "")
            if script.key and sent != f"Bearer {script.key}":
                return problem(401, "This server needs an API key.", "invalid_api_key")
        return await call_next(request)

    @app.get("/readyz")
    async def readyz() -> Any:
        left = script.loading - (time.monotonic() - script.started)
        if left > 0:
            state = {"ready": False, "stage": "reading weights", "progress": 0.4}
            return JSONResponse(state, 503)
        return {"ready": True}

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [{"id": "foghorn", "object": "model"}]}

    @app.get("/v1/dictionaries")
    async def dictionaries() -> Any:
        one = {"d_sae": script.size, "reads_exactly": True, "site": {"layer": 3}}
        return {"object": "list", "data": [one | {"id": name} for name in script.dictionaries]}

    @app.get("/v1/capabilities")
    async def capabilities() -> Any:
        traced = ["activations", "kl", "top"]
        return {"limits": {"rows": script.rows}, "trace": traced, "thinking": script.thinking}

    @app.get("/v1/features")
    async def features(
        q: str = "", limit: int = 20, offset: int = 0, dictionary: str = "foghorn"
    ) -> Any:
        all_ = [summary(i, dictionary) for i in range(script.size)]
        found = [one for one in all_ if q.lower() in one["label"].lower()]
        some = not found and " " in q
        if some:
            found = [one for one in all_ if any(word in one["label"] for word in q.split())]
        await asyncio.sleep(0.3 if q == "slow" else 0)
        more, page = offset + limit < len(found), found[offset : offset + limit]
        told = {"total": len(found), "has_more": more, "words": "any" if some else "all"}
        return {"object": "list", "data": page, **told}

    @app.post("/v1/features/activations")
    async def activations(body: dict[str, Any]) -> Any:
        if "half" in body["text"]:
            return problem(400, "There is no token that a dictionary reads.", "invalid_request")
        home, n = body.get("dictionary", "foghorn"), min(body["limit"], 3)
        fired = [summary(i, home) | {"activation": 9.0 - i, "at": 1, "mean": 1.0} for i in range(n)]
        return {"object": "activations", "tokens": [], "features": fired}

    @app.get("/v1/features/{ref:path}")
    async def feature(ref: str) -> Any:
        wants_near = ref.endswith("/neighbors")
        await asyncio.sleep(script.lag + script.near * wants_near)
        home, _, name = ref.removesuffix("/neighbors").rpartition("/")
        home = home or "foghorn"
        number = 0 if name == "golden-gate-bridge" else int(name) if name.isdigit() else script.size
        if number >= script.size or home not in script.dictionaries:
            last = script.size - 1
            return problem(404, f"There is no feature {name}; they go from 0 to {last}.", "x")
        if wants_near:
            return {"object": "list", "data": [summary(i, home) | {"cosine": 0.5} for i in (1, 2)]}
        return details(number, home)

    add_presets(app, script)
    add_replies(app, script)
    return app


def add_presets(app: FastAPI, script: Script) -> None:
    for i, name in enumerate(("golden-gate-bridge", "cats", "sea")):
        edit = {"feature": f"foghorn/{i}", "op": "clamp", "strength": 2.5, "unit": "max"}
        script.presets[name] = {
            "object": "preset",
            "name": name,
            "title": LABELS[i],
            "description": f"Everything leads to {LABELS[i]}.",
            "edits": [edit],
            "norm": None,
            "builtin": True,
        }

    @app.get("/v1/presets")
    async def presets() -> Any:
        return {"object": "list", "data": list(script.presets.values())}

    @app.put("/v1/presets/{name}")
    async def put(name: str, request: Request) -> Any:
        body = await request.json()
        script.presets[name] = {"object": "preset", "name": name, "builtin": False} | body
        return script.presets[name]

    @app.delete("/v1/presets/{name}")
    async def delete(name: str) -> Any:
        script.presets.pop(name, None)
        return {"name": name, "object": "preset", "deleted": True}


def add_replies(app: FastAPI, script: Script) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        body = await request.json()
        script.bodies.append(body)
        if body["model"] != "foghorn":
            return problem(404, f"No model {body['model']} is served.", "model_not_found")
        if words(body) > script.context or "too long" in body["messages"][-1]["content"]:
            return problem(413, "The prompt has 9000 tokens; 512 fit.", "context_length_exceeded")
        return EventSourceResponse(reply(script, body), ping=0, sep="\n")

    @app.post("/v1/compare")
    async def compare(request: Request) -> Any:
        body = await request.json()
        script.bodies.append(body)
        return EventSourceResponse(comparison(script, body), ping=0, sep="\n")

    @app.patch("/v1/generations/{id_}/steering")
    async def steer(id_: str, request: Request) -> Any:
        body = await request.json()
        if id_ not in script.live:
            return problem(404, f"No reply {id_} is running.", "unknown_generation")
        script.live[id_]["edits"] = body["edits"]
        return {"id": id_, "from_token": script.live[id_]["n"], "applied": body["edits"]}

    @app.delete("/v1/generations/{id_}")
    async def stop(id_: str) -> Any:
        if id_ not in script.live:
            return problem(404, f"No reply {id_} is running.", "unknown_generation")
        script.live[id_]["stop"] = True
        return {"id": id_, "object": "generation", "deleted": True}
