"""What the tests of the service send over HTTP, and how they read what comes back."""

from __future__ import annotations

import httpx2

FOG = {"edits": [{"feature": "fog", "op": "clamp", "strength": 4.0}]}
LONG = {"ignore_eos": True, "max_tokens": 12, "seed": 1}
BRIDGE = {"feature": "golden-gate-bridge", "op": "clamp", "strength": 4.0}
HELLO = "hello there, my friend"
LATCH = {"feature": 9, "value": 0.2, "unit": "raw", "latch": True}
USER = [{"role": "user", "content": "a"}]


def edit(**fields):
    return {"steering": {"edits": [{"feature": 3, "strength": 1.0, **fields}]}}


def text_of(reply):
    return reply["choices"][0]["message"]["content"]


def get(live, path, **params):
    response = live.http.get(path, params=params)
    assert response.status_code == 200, response.text
    return response.json()


def put(live, name, body):
    return live.http.put(f"/v1/presets/{name}", json=body)


def asgi(app):
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app, client=("127.0.0.1", 1)), base_url="http://localhost"
    )
