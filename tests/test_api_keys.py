"""Who is let in: by key, and by the name that the server was asked for."""

from __future__ import annotations

import logging

import pytest
from api_talk import asgi

from server.app import create_app
from server.service import Service
from server.settings import Settings


@pytest.fixture(scope="module")
def keyed(live, serve):
    return serve(live.service.deck, api_keys="first-key,second-key")


class TestKeys:
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic first-key"},
            {"authorization": "Bearer"},
            {"authorization": "Bearer first-key2"},
            {"x-api-key": "First-key"},
            {"x-api-key": b"\xe9"},
        ],
    )
    @pytest.mark.parametrize("path", ["/v1/models", "/v1/nope", "/v1/features/3"])
    def test_without_a_right_key_v1_is_closed(self, keyed, headers, path):
        refused = keyed.http.get(path, headers=headers)
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert refused.headers["www-authenticate"] == "Bearer"

    @pytest.mark.parametrize(
        "headers",
        [
            {"authorization": "Bearer first-key"},
            {"authorization": "bearer  second-key"},
            {"x-api-key": "second-key"},
        ],
    )
    def test_any_of_the_keys_opens_it_either_way(self, keyed, headers):
        assert keyed.http.get("/v1/models", headers=headers).status_code == 200

    def test_the_reference_offers_a_key_wherever_one_is_needed(self, live, keyed):
        for server, needed in ((keyed, [{"bearer": []}]), (live, None)):
            told = server.http.get("/openapi.json").json()
            assert ("securitySchemes" in told["components"]) is (needed is not None)
            for path, operations in told["paths"].items():
                for operation in operations.values():
                    assert operation.get("security") == (
                        needed if path.startswith("/v1/") else None
                    )

    def test_health_needs_no_key(self, keyed):
        for path in ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"):
            assert keyed.http.get(path).status_code == 200

    def test_a_wrong_body_does_not_tell_more_to_who_has_no_key(self, keyed):
        assert keyed.http.post("/v1/chat/completions", json={}).status_code == 401

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/nope", "/v1"])
    async def test_who_has_no_key_is_turned_away_before_the_body_is_read(self, path):
        told = []

        async def unread():
            raise AssertionError("it was read")

        async def send(message):
            told.append(message)

        app = create_app(Service("x", lambda r: None), Settings(api_keys="first-key"))
        headers = [(b"host", b"localhost"), (b"content-length", b"4000000")]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        await app({**scope, "query_string": b"", "root_path": ""}, unread, send)
        assert told[0]["status"] == 401

    def test_keys_are_in_no_log_and_no_settings_dump(self, keyed, caplog):
        assert "first-key" not in repr(Settings(api_keys="first-key"))
        with caplog.at_level(logging.DEBUG):
            for scheme in ("Bearer {}", "Basic {}"):
                for key in ("first-key", "wrong-key"):
                    sent = {"authorization": scheme.format(key), "x-api-key": f"not-{key}"}
                    keyed.http.get("/v1/models", headers=sent)
                    keyed.http.post("/v1/completions", json={"prompt": 1}, headers=sent)
        own = [r for r in caplog.records if not r.name.startswith(("httpcore", "httpx"))]
        assert {"200", "400", "401"} <= {part for r in own for part in r.getMessage().split()}
        assert not [r for r in own if "-key" in r.getMessage() + str(r.args)]


class TestHostNames:
    @pytest.mark.parametrize("host", ["localhost:80", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
    def test_a_loopback_server_answers_to_its_own_names(self, live, host):
        assert live.http.get("/healthz", headers={"host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", ""]
    )
    def test_a_rebound_name_is_refused(self, live, host):
        for path in ("/v1/models", "/healthz", "/"):
            refused = live.http.get(path, headers={"host": host})
            assert refused.status_code == 400
            assert "STEERDECK_ALLOWED_HOSTS" in refused.json()["error"]["message"]

    async def test_further_names_may_be_allowed(self):
        app = create_app(Service("x", lambda r: None), Settings(allowed_hosts="deck.example"))
        async with asgi(app) as client:
            answers = [
                (await client.get("/healthz", headers={"host": host})).status_code
                for host in ("deck.example", "localhost", "other.example")
            ]
        assert answers == [200, 200, 400]

    async def test_an_open_server_answers_to_any_name(self):
        settings = Settings(host="0.0.0.0", api_keys="k")
        async with asgi(create_app(Service("x", lambda r: None), settings)) as client:
            answer = await client.get("/healthz", headers={"host": "whatever.example"})
        assert answer.status_code == 200
