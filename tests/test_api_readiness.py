"""While the model loads, and where it cannot: what is told, what is refused, and who is called."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest
from api_talk import asgi

from dictionaries.cards import Cards
from server.app import create_app
from server.errors import SteerdeckError
from server.service import Service
from server.settings import Settings


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

    @pytest.mark.parametrize("path", ["/v1/features?q=fog", "/v1/features/fog", "/v1/features/3"])
    async def test_a_look_up_that_the_close_overtakes_hears_of_it(
        self, path, make_deck, monkeypatch
    ):
        """It waits for nothing that is read, and the request is as good as it ever was."""
        deck, told, go = make_deck(), threading.Event(), threading.Event()
        real = Cards._all

        def late(*asked):
            told.set()
            assert go.wait(20)
            return real(*asked)

        service = Service("tiny", lambda _: deck)
        app = create_app(service, Settings(ui=False))
        async with app.router.lifespan_context(app), asgi(app) as client:
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.01)
            monkeypatch.setattr(Cards, "_all", late)
            asking = asyncio.create_task(client.get(path))
            await asyncio.to_thread(told.wait, 20)
            await service.close()
            go.set()
            answer = await asking
        assert answer.status_code == 503, answer.text
        error = answer.json()["error"]
        assert (error["code"], error["message"]) == ("unavailable", "the server is shutting down")
