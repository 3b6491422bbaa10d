"""A scripted API for the page's edge cases: slow, loading, failing and hostile servers.

It speaks the service's JSON with a made-up model, so that a test can choose the rate of a stream,
break one half way, ask for a key or put markup into every label. What the real model and service do
is tested against the real service. `ui_stub_routes.py` serves what is said here.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

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
    thinking: tuple[str, ...] = ()  # of a model that marks thinking blocks: only, after
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
