"""Headers of every answer: request ids, what pages may load, and which origins are let in."""

from __future__ import annotations

import re

from api_talk import asgi

from server.app import create_app
from server.service import Service
from server.settings import Settings


class TestHeaders:
    def test_every_answer_carries_a_request_id(self, live):
        first, second = (live.http.get("/healthz").headers["x-request-id"] for _ in range(2))
        assert re.fullmatch(r"req_[0-9a-f]{24}", first)
        assert first != second
        assert live.http.get("/v1/nope").headers["x-request-id"]

    def test_a_callers_own_request_id_is_kept_if_it_is_harmless(self, live):
        asked = {"x-request-id": "mine-42"}
        assert live.http.get("/healthz", headers=asked).headers["x-request-id"] == "mine-42"
        strange = live.http.get("/healthz", headers={"x-request-id": "a b" * 50})
        assert strange.headers["x-request-id"].startswith("req_")

    def test_pages_may_load_nothing_from_elsewhere(self, live):
        policy = live.http.get("/docs").headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy

    async def test_other_origins_are_let_in_only_if_asked_for(self, live):
        asked = {"origin": "https://page.example", "access-control-request-method": "POST"}
        closed = live.http.options("/v1/chat/completions", headers=asked)
        assert "access-control-allow-origin" not in closed.headers
        settings = Settings(cors_origins="https://page.example")
        async with asgi(create_app(Service("x", lambda r: None), settings)) as client:
            opened = await client.options("/v1/chat/completions", headers=asked)
            other = await client.options(
                "/v1/models", headers={**asked, "origin": "https://other.example"}
            )
        assert opened.headers["access-control-allow-origin"] == "https://page.example"
        assert "access-control-allow-credentials" not in opened.headers
        assert "access-control-allow-origin" not in other.headers

    async def test_a_page_that_is_let_in_may_reach_a_server_on_its_users_machine(self):
        settings = Settings(cors_origins="https://page.example")
        asked = {
            "access-control-request-method": "POST",
            "access-control-request-private-network": "true",
        }
        async with asgi(create_app(Service("x", lambda r: None), settings)) as client:
            for origin, status in (("https://page.example", 200), ("https://other.example", 400)):
                answer = await client.options("/v1/models", headers={**asked, "origin": origin})
                assert answer.status_code == status
        assert "access-control-allow-origin" not in answer.headers

    async def test_a_page_that_is_let_in_can_read_every_refusal(self):
        settings = Settings(cors_origins="https://page.example", max_body=1024)
        app = create_app(Service("x", lambda r: None), settings)

        async def broken(_):
            raise KeyError("what")

        app.router.routes.insert(0, type(app.router.routes[0])("/broken", broken))
        asked = {"origin": "https://page.example"}
        async with asgi(app) as client:
            answers = [
                await client.post("/v1/completions", content="x" * 1025, headers=asked),
                await client.get("/v1/models", headers=asked | {"host": "evil.example"}),
                await client.get("/v1/models", headers=asked),
                await client.get("/broken", headers=asked),
            ]
        assert [answer.status_code for answer in answers] == [413, 400, 503, 500]
        for answer in answers:
            assert answer.headers["access-control-allow-origin"] == "https://page.example"
            assert answer.headers["x-request-id"]
