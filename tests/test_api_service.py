"""Around the replies: readiness, keys, host names, headers, metrics, documents, logs."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading

import anyio
import httpx2
import pytest

from server.app import create_app
from server.errors import Busy, SteerdeckError
from server.service import Service
from server.settings import Settings
from server.stream import Streamed


def asgi(app):
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app, client=("127.0.0.1", 1)), base_url="http://localhost"
    )


@pytest.fixture(scope="module")
def keyed(live, serve):
    return serve(live.service.deck, api_keys="first-key,second-key")


class TestReadiness:
    def test_it_listens_while_the_model_loads_and_says_how_far_it_is(self, live, serve):
        told, go = threading.Event(), threading.Event()

        def loader(report):
            report("reading the weights", 0.25)
            told.set()
            assert go.wait(20)
            return live.service.deck

        loading = serve(loader)
        assert told.wait(10)
        ready = loading.http.get("/readyz")
        assert ready.status_code == 503
        assert ready.json() == {"ready": False, "stage": "reading the weights", "progress": 0.25}
        assert loading.http.get("/healthz").json() == {"status": "ok"}
        assert "steerdeck_ready 0.0" in loading.http.get("/metrics").text
        for path in ("/v1/models", "/v1/features", "/v1/capabilities"):
            refused = loading.http.get(path)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            assert refused.json()["error"]["code"] == "model_loading"
            assert "reading the weights, 25%" in refused.json()["error"]["message"]
        go.set()
        for _ in range(400):
            if loading.http.get("/readyz").status_code == 200:
                break
        assert loading.http.get("/readyz").json() == {"ready": True}
        assert loading.chat()["choices"]

    @pytest.mark.parametrize("stage", ["reading the weights", "the next one"])
    async def test_who_is_told_to_end_while_loading_ends_it_and_calls_it_no_failure(
        self, stage, caplog
    ):
        told, go, failed, raised = threading.Event(), threading.Event(), [], []

        def loader(report):
            report("reading the weights", 0.25)
            told.set()
            assert go.wait(20)
            try:
                report(stage, 0.26)
            except SteerdeckError as exc:
                raised.append(exc.code)
                raise RuntimeError("it was made something else of") from exc

        service = Service("slow", loader)
        app = create_app(service, Settings(ui=False), on_failure=lambda: failed.append(True))
        async with app.router.lifespan_context(app):
            await asyncio.to_thread(told.wait, 10)
            await service.close()
            go.set()
        assert raised == ["unavailable"]
        assert not failed
        assert service.summary()["stage"] == "closing"
        assert not [r for r in caplog.records if r.levelno >= logging.WARNING]

    async def test_a_failed_load_says_why_and_calls_back(self):
        failed = []
        service = Service("broken", lambda report: (_ for _ in ()).throw(SteerdeckError("no disk")))
        app = create_app(service, Settings(ui=False), on_failure=lambda: failed.append(True))
        async with app.router.lifespan_context(app), asgi(app) as client:
            for _ in range(200):
                await asyncio.sleep(0.01)
                if failed:
                    break
            ready = await client.get("/readyz")
            refused = await client.get("/v1/models")
        assert failed == [True]
        assert ready.json()["stage"] == "failed"
        assert ready.json()["message"] == "no disk"
        assert refused.status_code == 503
        assert "retry-after" not in refused.headers
        assert "no disk" in refused.json()["error"]["message"]


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


async def test_nobody_waits_for_the_threads_of_slow_look_ups(live):
    """A prober would start the server anew, and nobody could stop a reply."""
    service = Service("tiny", lambda report: live.service.deck)
    await service.load()
    threads, go = anyio.to_thread.current_default_thread_limiter(), threading.Event()
    async with (
        asyncio.timeout(10),
        asgi(create_app(service, Settings(ui=False))) as client,
        anyio.create_task_group() as slow,
    ):
        try:
            for _ in range(int(threads.total_tokens)):
                slow.start_soon(anyio.to_thread.run_sync, go.wait)
            while threads.available_tokens:
                await asyncio.sleep(0.01)
            assert (await client.get("/readyz")).status_code == 200
            assert (await client.get("/metrics")).status_code == 200
            assert (await client.get("/v1/models")).status_code == 200
            assert (await client.delete("/v1/generations/none")).status_code == 404
        finally:
            go.set()


async def test_a_reader_that_stalls_is_let_go_without_a_traceback(caplog):
    left = []

    async def events():
        try:
            while True:
                yield {"data": "x"}
        finally:
            left.append(True)

    async def stalled(message):
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    response = Streamed(events(), send_timeout=0.05)
    with caplog.at_level(logging.INFO):
        await response({"type": "http", "method": "POST"}, asyncio.Event().wait, stalled)
    assert left
    told = [r for r in caplog.records if r.levelno >= logging.INFO]
    assert [(r.levelname, r.exc_info) for r in told] == [("INFO", None)]


async def test_one_too_many_to_be_prepared_is_refused_and_the_next_is_not(live):
    """All wait for one thread: more than there are places for would only wait to be refused."""
    service = Service("tiny", lambda report: live.service.deck)
    await service.load()
    go, places = threading.Event(), 4 + 3
    waiting = [asyncio.create_task(service.prepare(lambda _: go.wait(10))) for _ in range(places)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await service.prepare(lambda _: None)
    go.set()
    await asyncio.gather(*waiting, return_exceptions=True)  # none of them has made an Ask
    with pytest.raises(AttributeError):
        await service.prepare(lambda _: None)


@pytest.mark.parametrize(
    ("path", "field", "body"),
    [
        ("chat/completions", "messages", {"messages": [{"role": "user", "content": "{}"}] * 2}),
        ("completions", "prompt", {"prompt": ["a", "{}"]}),
        ("completions", "prompt", {"prompt": [1] * 600}),
    ],
)
def test_a_prompt_far_too_long_is_refused_before_it_is_tokenized(
    live, monkeypatch, path, field, body
):
    """It would take seconds in the one thread that prepares for all."""

    def unread(*_):
        raise AssertionError("it was read")

    for name in ("render", "encode_raw"):
        monkeypatch.setattr(f"server.prepare.{name}", unread)
    text = json.dumps(body | {"max_tokens": 1}).replace("{}", "long " * 1000)
    refused = live.http.post(
        f"/v1/{path}", content=text, headers={"content-type": "application/json"}
    )
    assert refused.status_code == 413, refused.text
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert refused.json()["error"]["param"] == field


def test_a_prompt_too_long_by_little_names_its_field_as_well(live):
    refused = live.http.post("/v1/completions", json={"prompt": "a" * 600})
    assert (refused.status_code, refused.json()["error"]["param"]) == (413, "prompt")


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


class TestMetrics:
    def read(self, live):
        found = {}
        for line in live.http.get("/metrics").text.splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
        return found

    def moved(self, live, act):
        before = self.read(live)
        act()
        after = self.read(live)
        return {name: value - before.get(name, 0.0) for name, value in after.items()}

    def test_a_reply_moves_them(self, live):
        edits = [
            {"feature": "fog", "op": "add", "strength": 1.0},
            {"feature": 3, "op": "ablate"},
        ]
        moved = self.moved(
            live,
            lambda: live.chat(max_tokens=6, ignore_eos=True, steering={"edits": edits}),
        )
        assert moved["steerdeck_generated_tokens_total"] == 6
        assert moved["steerdeck_prompt_tokens_total"] > 6
        assert moved["steerdeck_edited_tokens_total"] > 6
        assert moved["steerdeck_time_to_first_token_seconds_count"] == 1
        assert moved["steerdeck_inter_token_seconds_count"] == 5
        assert moved['steerdeck_edits_total{op="add"}'] == 1
        assert moved['steerdeck_edits_total{op="ablate"}'] == 1
        assert moved['steerdeck_replies_total{reason="length"}'] == 1
        route = 'method="POST",route="/v1/chat/completions",status="200"'
        assert moved[f"steerdeck_http_request_seconds_count{{{route}}}"] == 1

    def test_a_refusal_is_counted_by_its_code(self, live):
        def act():
            live.http.get("/v1/features/nope")
            live.http.get("/v1/models", headers={"host": "evil.example"})
            live.http.post("/v1/completions", content="x" * (4 * 2**20 + 1))

        moved = self.moved(live, act)
        assert moved['steerdeck_refused_total{code="unknown_feature"}'] == 1
        assert moved['steerdeck_refused_total{code="invalid_request"}'] == 1
        assert moved['steerdeck_refused_total{code="body_too_large"}'] == 1

    def test_paths_are_counted_by_their_template(self, live):
        live.http.get("/v1/features/some-name-that-is-no-template")
        live.http.get("/any/page/of/mine")
        live.http.request("BREW", "/v1/models")
        text = live.http.get("/metrics").text
        assert 'route="/v1/features/{ref:path}"' in text
        assert "no-template" not in text
        assert "/any/page" not in text
        assert "BREW" not in text


class TestDocuments:
    def test_the_api_page_needs_nothing_from_elsewhere(self, live):
        page = live.http.get("/docs")
        assert page.status_code == 200
        sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(sources) >= 3
        for source in sources:
            assert source.startswith("/docs/static/")
            assert live.http.get(source).status_code == 200
        assert "http" not in re.sub(r"https?://localhost", "", page.text)

    def test_the_schema_describes_request_reply_and_refusal(self, live):
        schema = live.http.get("/openapi.json").json()
        chat = schema["paths"]["/v1/chat/completions"]["post"]
        assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
        assert "429" in chat["responses"]
        assert "422" not in str(sorted(chat["responses"]))
        models = schema["components"]["schemas"]
        for name in (
            "ChatRequest",
            "ChatCompletion",
            "WireSteering",
            "FeatureDetail",
            "ErrorReply",
        ):
            assert name in models
        for field in ("edits", "preset", "norm", "trace", "id", "timeline"):
            assert models["WireSteering"]["properties"][field]["description"]

    @pytest.mark.parametrize(
        "path", ["/v1/models", "/v1/features", "/v1/features/{ref}", "/v1/presets/{name}"]
    )
    def test_every_route_is_in_it(self, live, path):
        assert path in live.http.get("/openapi.json").json()["paths"]


class TestLogs:
    SECRET = "a-very-private-thought"

    def test_no_line_holds_what_people_say(self, live, caplog):
        with caplog.at_level(logging.DEBUG):
            live.chat(self.SECRET)
            live.stream(self.SECRET)
            live.http.post(
                "/v1/chat/completions", json=live.body(self.SECRET, temperature=self.SECRET)
            )
            live.http.post("/v1/completions", json={"prompt": self.SECRET, "max_tokens": 1})
        own = [r for r in caplog.records if not r.name.startswith(("httpcore", "httpx"))]
        assert any("/v1/chat/completions" in r.getMessage() for r in own)
        assert not [r for r in own if self.SECRET in r.getMessage() + str(r.args)]

    def test_both_formats_carry_the_request_id_and_the_exception(self):
        from server.logs import JsonFormatter, TextFormatter

        try:
            raise ValueError("odd")
        except ValueError as exc:
            record = logging.LogRecord(
                "steerdeck.x", logging.INFO, "f", 1, "said %d", (3,), (type(exc), exc, None)
            )
        text = TextFormatter(lambda: "req_1").format(record)
        assert "INFO" in text
        assert "said 3 [req_1]" in text
        told = json.loads(JsonFormatter(lambda: "req_1").format(record))
        assert (told["level"], told["message"], told["request"]) == ("info", "said 3", "req_1")
        assert "ValueError: odd" in told["exception"]
        assert "[" not in TextFormatter(lambda: "-").format(record).splitlines()[0]

    async def test_what_nobody_foresaw_is_a_500_in_the_error_object(self, caplog):
        app = create_app(Service("x", lambda r: None), Settings())

        async def broken(_):
            raise KeyError("what")

        app.router.routes.insert(0, type(app.router.routes[0])("/broken", broken))
        async with asgi(app) as client:
            answer = await client.get("/broken")
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal_error"
        assert "what" not in answer.text
        assert answer.headers["x-request-id"]
        assert "KeyError" in caplog.text
