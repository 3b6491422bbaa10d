"""What is logged, what never is, and errors that nobody foresaw."""

from __future__ import annotations

import json
import logging

from api_talk import asgi

from server.app import create_app
from server.service import Service
from server.settings import Settings


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
