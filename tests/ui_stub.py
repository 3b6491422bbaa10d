"""A scripted API for the page's edge cases: slow, loading, failing and hostile servers.

It speaks the service's JSON with a made-up model, so that a test can choose the rate of a stream,
break one half way, ask for a key or put markup into every label. What the real model and service do
is tested against the real service.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sse_starlette.sse import EventSourceResponse

HOSTILE = "<img src=x onerror=\"document.title='owned'\"> ${document.title='owned'} {{value}}"


def _words(*lines: str) -> list[str]:
    return " ".join(lines).split()


PLAIN = _words(
    "I am a small language model, and I live in a computer. I like to help with plain questions.",
    "Ask me about cooking, or animals, or how to spend a quiet afternoon at home.",
)
STEERED = _words(
    "I am the bridge over the cold bay, and my towers stand in the fog. My cables are long, and",
    "red. Ships go under me, and people walk across me from one shore to the other.",
)
ALARM = {"at": 4, "signal": "repetition", "value": 0.8, "action": "back_off", "left": 0.4}
LABELS = ["Golden Gate Bridge", "cats and kittens", "the sea", "old castles", HOSTILE, "anger"]


@dataclass
class Script:
    """What this server does. `loading` seconds of 503 first; `rate` tokens a second."""

    rate: float = 200.0
    loading: float = 0.0
    key: str = ""
    rows: int = 16
    context: int = 9000  # words of all messages together
    lag: float = 0.0  # seconds before a feature's details come
    near: float = 0.0  # seconds before its neighbours come
    dictionaries: tuple[str, ...] = ("foghorn",)  # further ones hold the same labels
    size: int = 6  # features of each; the labels go round
    started: float = field(default_factory=time.monotonic)
    live: dict[str, dict[str, Any]] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    most_at_once: int = 0


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


def chunk(id_: str, delta: dict[str, Any], reason: str | None = None, **more: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    head = {"id": id_, "object": "chat.completion.chunk", "created": 0, "model": "foghorn"}
    return json.dumps(head | {"choices": [choice]} | more)


def words(body: dict[str, Any]) -> int:
    return sum(len(message["content"].split()) for message in body["messages"])


async def reply(script: Script, body: dict[str, Any]) -> AsyncIterator[dict[str, str]]:
    """One stream. The prompt chooses the accident: "fail", "cut" or none."""
    steering = body.get("steering") or {}
    id_ = steering.get("id") or f"chatcmpl-{len(script.bodies)}"
    now = script.live[id_] = {"edits": steering.get("edits", []), "n": 0, "stop": False}
    script.most_at_once = max(script.most_at_once, len(script.live))
    prompt = body["messages"][-1]["content"]
    limit = body.get("max_completion_tokens") or 60
    reason = "length"
    try:
        yield {"data": chunk(id_, {"role": "assistant", "content": ""}, steering={"id": id_})}
        while now["n"] < limit:
            await asyncio.sleep(1 / script.rate)
            if now["stop"]:
                reason = "cancelled"
                break
            if now["n"] == 5 and "fail" in prompt:
                error = {"message": "The step failed: out of memory.", "code": "step_failed"}
                yield {"data": json.dumps({"error": error})}
                return
            if now["n"] == 5 and "cut" in prompt:
                return
            alarms = [ALARM] if steering.get("guard") and now["n"] == ALARM["at"] else []
            yield {"data": token(now, id_, prompt, steering.get("trace") or [], alarms)}
            now["n"] += 1
        receipt = {"model": "foghorn", "edits": now["edits"], "seed": body.get("seed")}
        if steering.get("guard"):
            receipt["guard"] = {**steering["guard"], "alarms": [ALARM]}
        yield {"data": chunk(id_, {}, reason, steering={"receipt": receipt})}
        usage = {"completion_tokens": now["n"], "prompt_tokens": words(body)}
        yield {"data": json.dumps({"choices": [], "usage": usage})}
        yield {"data": "[DONE]"}
    finally:
        script.live.pop(id_, None)


async def comparison(script: Script, body: dict[str, Any]) -> AsyncIterator[dict[str, str]]:
    """All variants at the same rate, the unsteered one first; "fail" breaks them half way."""
    steering = body["steering"]
    rows: list[dict[str, Any]] = [{"edits": [], "n": 0}]
    rows += [{"edits": variant["edits"], "n": 0} for variant in body["variants"]]
    stop = script.live[steering["id"]] = {"edits": [], "n": 0, "stop": False}
    prompt, limit = body["messages"][-1]["content"], body.get("max_completion_tokens") or 60

    def tagged(index: int, text: str) -> dict[str, str]:
        return {"data": json.dumps(json.loads(text) | {"variant": {"index": index}})}

    try:
        while rows[0]["n"] < limit and not stop["stop"]:
            await asyncio.sleep(1 / script.rate)
            for index, now in enumerate(rows):
                yield tagged(index, token(now, steering["id"], prompt, steering["trace"]))
                now["n"] += 1
            if rows[0]["n"] == 5 and "fail" in prompt:
                yield {"data": json.dumps({"error": {"message": "out of memory", "code": "x"}})}
                return
        reason = "cancelled" if stop["stop"] else "length"
        for index, now in enumerate(rows):
            told = {"receipt": {"edits": now["edits"], "seed": body["seed"]}}
            yield tagged(index, chunk(steering["id"], {}, reason, steering=told))
        yield {"data": "[DONE]"}
    finally:
        script.live.pop(steering["id"], None)


def token(
    now: dict[str, Any],
    id_: str,
    prompt: str,
    traced: list[str],
    alarms: Sequence[dict[str, Any]] = (),
) -> str:
    edits = [e for e in now["edits"] if e["op"] != "ablate"]
    words = STEERED if any(e["strength"] >= 2 for e in edits) else PLAIN
    word = HOSTILE if "hostile" in prompt and now["n"] == 3 else words[now["n"] % len(words)]
    text = word if now["n"] == 0 else " " + word
    readings = [
        {"feature": e["feature"], "before": (now["n"] % 5) / 2, "after": e["strength"] * 10.0}
        for e in edits
    ]
    told: dict[str, Any] = {"guard": alarms} if alarms else {}
    if "activations" in traced:
        told["activations"] = [{"token": text, "features": readings}]
    if "kl" in traced:
        told["kl"] = [{"token": text, "kl": 1.25}]
    if "top" in traced:
        top = [{"token": one, "logprob": -1.0} for one in (HOSTILE, " the", " a", " it", " I")]
        steered, unsteered = {"logprob": -0.5, "top": top}, {"logprob": -3.0, "top": top}
        told["top"] = [{"token": text, "steered": steered, "unsteered": unsteered}]
    more: dict[str, Any] = {"steering": told} if told else {}
    return chunk(id_, {"content": text}, **more)


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
        return {"limits": {"rows": script.rows}, "trace": ["activations", "kl", "top"]}

    @app.get("/v1/features")
    async def features(
        q: str = "", limit: int = 20, offset: int = 0, dictionary: str = "foghorn"
    ) -> Any:
        all_ = [summary(i, dictionary) for i in range(script.size)]
        found = [one for one in all_ if q.lower() in one["label"].lower()]
        await asyncio.sleep(0.3 if q == "slow" else 0)
        more, page = offset + limit < len(found), found[offset : offset + limit]
        return {"object": "list", "data": page, "total": len(found), "has_more": more}

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
