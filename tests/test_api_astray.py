"""Wrong paths, methods and names, with the page and without: an answer of ours, and what to do."""

from __future__ import annotations

import gradio as gr
import httpx2
import pytest

from server.app import create_app
from server.service import Service
from server.settings import Settings

READ = ["/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/v1/models", "/v1/presets"]


@pytest.fixture(params=["page", "alone"])
async def client(request):
    """Of a server that loads no model."""
    page = None
    if request.param == "page":
        with gr.Blocks() as page:
            gr.HTML("page")
    app = create_app(Service("x", lambda r: None), Settings(), page=page)
    transport = httpx2.ASGITransport(app, client=("127.0.0.1", 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def test_head_is_get_without_the_body(client):
    for path in READ:
        head, whole = await client.head(path), await client.get(path)
        assert (head.status_code, head.content) == (whole.status_code, b""), path
        assert head.headers["content-type"] == whole.headers["content-type"]
    assert (await client.head("/v1/chat/completions")).status_code == 405


async def test_every_405_says_what_is_allowed(client):
    wrong = [
        *(("POST", path) for path in ("/healthz", "/readyz", "/metrics", "/v1/models")),
        ("PUT", "/v1/chat/completions"),
        ("HEAD", "/v1/compare"),
    ]
    for method, path in wrong:
        answer = await client.request(method, path)
        assert answer.status_code == 405, (method, path)
        expected = "POST" if path.endswith(("completions", "compare")) else "GET, HEAD"
        assert answer.headers["allow"] == expected
        if method != "HEAD":
            assert expected in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "names"),
    [
        ("POST", "/chat/completions", "a base URL that ends in /v1"),
        ("POST", "/completions", "a base URL that ends in /v1"),
        ("POST", "/responses", "a base URL that ends in /v1"),
        ("POST", "/embeddings", "a base URL that ends in /v1"),
        ("GET", "/models", "a base URL that ends in /v1"),
        ("GET", "/models/foghorn", "a base URL that ends in /v1"),
        ("POST", "//v1/chat/completions", "/v1, without a slash"),
        ("POST", "/v1/responses", "openai.chat("),
        ("POST", "/v1/messages", "POST /v1/chat/completions"),
        ("POST", "/v1/chat/completions/", "leave out the slash"),
        ("GET", "/v1/models/", "leave out the slash"),
        ("GET", "/v1/nope", "/docs lists"),
    ],
)
async def test_a_wrong_path_is_told_the_right_one(client, method, path, names):
    answer = await client.request(method, f"http://localhost{path}")
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["code"] == "not_found"
    assert f"there is no {method} {path}: " in error["message"]
    assert names in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nope", 404, "not_found"),
        ("GET", "/v1", 404, "not_found"),
        ("GET", "/nope", 404, "not_found"),
        ("PUT", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("GET", "/v1/models/nope", 404, "model_not_found"),
        ("GET", "/v1/features/nope", 404, "unknown_feature"),
        ("GET", "/v1/features/64", 404, "unknown_feature"),
        ("GET", "/v1/features/99999999999999999999", 404, "unknown_feature"),
        ("GET", "/v1/features?limit=0", 400, "invalid_request"),
        ("GET", "/v1/features?sort=luck", 400, "invalid_request"),
        ("GET", "/v1/features?dictionary=x", 404, "not_found"),
        ("GET", "/v1/features/3/neighbors?n=x", 400, "invalid_request"),
        ("GET", "/v1/presets/nope", 404, "not_found"),
        ("DELETE", "/v1/presets/nope", 404, "not_found"),
        ("DELETE", "/v1/generations/nope", 404, "unknown_generation"),
    ],
)
def test_a_wrong_address_gets_the_same_error_object(live, method, path, status, code):
    response = live.http.request(method, path)
    assert response.status_code == status, response.text
    assert response.json()["error"]["code"] == code


def test_changing_what_does_not_run_is_refused(live):
    response = live.http.patch("/v1/generations/gone/steering", json={"edits": []})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unknown_generation"
