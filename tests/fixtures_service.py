"""Fixtures of tests of the service: the real app, engine and dictionary on a socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from background import Background, stop_all

if TYPE_CHECKING:
    import httpx2
    from transformers import PreTrainedTokenizerFast

    from dictionaries.dictionary import Dictionary


@dataclass(frozen=True)
class Live:
    """A running server, a client of it, and its insides for what HTTP does not tell."""

    url: str
    service: Any
    http: httpx2.Client

    def chat(self, content: Any = "hello", **body: Any) -> Any:
        """The reply to one message, in one piece; greedy unless told otherwise."""
        response = self.http.post("/v1/chat/completions", json=self.body(content, **body))
        assert response.status_code == 200, response.text
        return response.json()

    def stream(self, content: Any = "hello", **body: Any) -> list[Any]:
        """The events of the streamed reply, parsed; "[DONE]" as it is."""
        with self.open(content, **body) as events:
            assert events.response.status_code == 200, events.response.read()
            return [self.parsed(event) for event in events]

    def open(self, content: Any = "hello", **body: Any) -> Any:
        """The streamed reply while it is made: a context manager over its events."""
        body = self.body(content, **body, stream=True)
        return self.http.sse("/v1/chat/completions", method="POST", json=body)

    @staticmethod
    def body(content: Any = "hello", **body: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": content}]
        return {"messages": messages, "temperature": 0, "max_tokens": 8, **body}

    @staticmethod
    def parsed(event: Any) -> Any:
        return event.data if event.data == "[DONE]" else json.loads(event.data)


@pytest.fixture(scope="session")
def make_deck(
    tokenizer: PreTrainedTokenizerFast,
    make_dictionary: Callable[..., Dictionary],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Any]]:
    """Decks over the tiny Llama: dictionary `tiny` with cards, one built-in preset `loud`.

    before_step: called by the engine's thread before every forward pass: it may wait, or raise.
    endless: the model never writes a special token, so every reply runs to its limit.
    """
    import torch
    from tiny import SPECIALS, tiny_model

    from dictionaries.cards import Card, Cards, Example, Histogram
    from server.deck import Deck, Defaults
    from server.engine.engine import SlotEngine
    from server.presets import Preset, Presets
    from server.schemas.steering import PresetBody

    engines: list[SlotEngine] = []
    dictionary = make_dictionary("tiny")
    loud = PresetBody(title="Loud", edits=[{"feature": "golden-gate-bridge", "strength": 4.0}])

    def make(
        data_dir: Path | None = None,
        before_step: Callable[[], object] | None = None,
        endless: bool = False,
        **options: Any,
    ) -> Any:
        cards = Cards.create(tmp_path_factory.mktemp("cards") / "cards.sqlite")
        cards.put(
            [
                Card(
                    3,
                    "Golden Gate Bridge",
                    slug="golden-gate-bridge",
                    density=0.01,
                    maximum=2.5,
                    histogram=Histogram((0.0, 1.0, 2.5), (3, 1)),
                    promoted=((" bridge", 3.0), (" gate", 2.0)),
                    suppressed=((" cat", -2.0),),
                    examples=(Example((" the", " bridge"), (0.0, 2.5), (2.0, 2.5)),),
                    onset=0.5,
                    breakdown=3.0,
                    op="clamp",
                    strength=1.0,
                    output_score=0.75,
                    neighbours=((7, 0.5), (5, 0.25)),
                    labelled_by="concept",
                ),
                Card(5, "fog and mist", slug="fog", density=0.02, maximum=1.5),
                Card(7, "unmeasured"),
            ]
        )
        model = tiny_model()
        if before_step is not None:
            model.get_input_embeddings().register_forward_pre_hook(
                lambda *_: before_step() and None
            )
        if endless:
            never = torch.tensor(tokenizer.convert_tokens_to_ids(SPECIALS))
            model.get_output_embeddings().register_forward_hook(
                lambda _module, _args, logits: logits.index_fill(-1, never, -1e4)
            )
        engine = SlotEngine(model, tokenizer, {"tiny": dictionary}, **options)
        engines.append(engine)
        engine.start()
        path = data_dir / "presets.json" if data_dir else None
        return Deck(
            engine=engine,
            tokenizer=tokenizer,
            model="tiny",
            revision="0123456789abcdef",
            dictionaries={"tiny": dictionary},
            cards={"tiny": cards},
            presets=Presets("tiny", [Preset("loud", loud, builtin=True)], path),
            defaults=Defaults(max_tokens=24),
        )

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., Live]]:
    """Serve a deck (or what a loader makes of one) on a free port, in a thread."""
    import httpx2

    from server.app import create_app
    from server.mount import make_server
    from server.service import Service
    from server.settings import Settings

    running: list[Background] = []
    clients: list[httpx2.Client] = []

    def start(deck: Any, **settings: Any) -> Live:
        loader = deck if callable(deck) else lambda report: deck
        service = Service("tiny", loader)
        app = create_app(service, Settings(ui=False, **settings))
        server = Background(lambda: make_server(app, service))
        running.append(server)
        server.start(lambda: callable(deck) or service.alive)
        clients.append(httpx2.Client(base_url=server.url, timeout=30))
        return Live(server.url, service, clients[-1])

    yield start
    for client in clients:
        client.close()
    stop_all(running)


@pytest.fixture(scope="session")
def live(make_deck: Callable[..., Any], serve: Callable[..., Live], tmp_path_factory: Any) -> Live:
    """One server for all who only talk to it."""
    return serve(make_deck(tmp_path_factory.mktemp("data"), max_rows=4, max_waiting=3))
