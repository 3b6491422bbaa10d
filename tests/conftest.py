"""The fixtures of the tests. What takes long to import is imported where it is used: the process
that hands the tests to others needs none of it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from background import Background

if TYPE_CHECKING:
    from tiny import Planted
    from transformers import PreTrainedTokenizerFast

    from dictionaries.dictionary import Dictionary
    from server.engine.seam import Generation
    from server.engine.types import Change, Delta, Failure, Finish, Request, Steering, Token


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    from tiny import byte_tokenizer

    return byte_tokenizer()


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    from tiny import tiny_model

    return tiny_model


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where a law must hold that takes a model there: on the CPU it proves its own test."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU that torch can use")
    return str(request.param)


@pytest.fixture(scope="session")
def make_dictionary(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Dictionary]:
    """A small random SAE in SAELens' format, written to disk and opened like any other."""
    from tiny import D_MODEL, write_sae

    from dictionaries.formats import open_dictionary

    def make(
        id: str = "tiny",
        *,
        layer: int = 1,
        hook: str = "resid_post",
        architecture: str = "jumprelu",
        d_in: int | None = None,
        normalize: str = "none",
        seed: int = 3,
    ) -> Dictionary:
        folder = tmp_path_factory.mktemp("sae") / id
        width = D_MODEL if d_in is None else d_in
        write_sae(folder, layer, hook, architecture, width, normalize, seed)
        return open_dictionary(folder, id=id)

    return make


@pytest.fixture(scope="session")
def dictionary(make_dictionary: Callable[..., Dictionary]) -> Dictionary:
    """At layer 1 of the tiny models, JumpReLU."""
    return make_dictionary()


@pytest.fixture
def make_engine(
    tokenizer: PreTrainedTokenizerFast, dictionary: Dictionary
) -> Iterator[Callable[..., Any]]:
    """SlotEngines over tiny models, started; closed again after the test."""
    from tiny import tiny_model

    from server.engine.engine import SlotEngine

    engines: list[SlotEngine] = []

    def make(
        family: str = "llama",
        *,
        dictionaries: tuple[Dictionary, ...] | None = None,
        model: Any = None,
        **options: Any,
    ) -> SlotEngine:
        own = (dictionary,) if dictionaries is None else dictionaries
        engine = SlotEngine(
            tiny_model(family) if model is None else model,
            tokenizer,
            {one.info.id: one for one in own},
            **options,
        )
        engines.append(engine)
        engine.start()
        return engine

    yield make
    for engine in engines:
        engine.close()


# --- The service: the real app, engine and dictionary on a socket ---


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
    """
    from tiny import tiny_model

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
        engine = SlotEngine(model, tokenizer, {"tiny": dictionary}, model_name="tiny", **options)
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
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def live(make_deck: Callable[..., Any], serve: Callable[..., Live], tmp_path_factory: Any) -> Live:
    """One server for all who only talk to it."""
    return serve(make_deck(tmp_path_factory.mktemp("data"), max_rows=4, max_waiting=3))


@dataclass
class Heard:
    """A whole reply, as its reader got it."""

    deltas: list[Delta]
    end: Finish | Failure

    @property
    def tokens(self) -> list[Token]:
        return [token for delta in self.deltas for token in delta.tokens]

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)


async def listen(generation: Generation) -> Heard:
    from server.engine.types import Delta

    deltas: list[Delta] = []
    async for event in generation:
        if isinstance(event, Delta):
            deltas.append(event)
        else:
            return Heard(deltas, event)
    raise AssertionError("the stream ended without a Finish or Failure")


@pytest.fixture(scope="session")
def hear() -> Callable[..., Any]:
    """`await hear(engine, request, ...)`: submit them all at once and read every reply."""

    async def hear(engine: Any, *requests: Request) -> list[Heard]:
        generations = [engine.submit(request) for request in requests]
        return await asyncio.gather(*map(listen, generations))

    return hear


@pytest.fixture(scope="session")
def read() -> Callable[[Generation], Any]:
    """`await read(generation)`: the whole of one reply."""
    return listen


@pytest.fixture(scope="session")
def ask(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Request]:
    """A Request for a raw prompt; greedy, 12 tokens and never ending early unless told."""
    from server.engine.text import encode_raw
    from server.engine.types import Request, Sampling, Steering

    counter = itertools.count()
    unsteered = Steering()

    def ask(
        text: str = "The bridge is red.",
        *,
        id: str | None = None,
        steering: Steering = unsteered,
        changes: tuple[Change, ...] = (),
        trace: bool = False,
        **sampling: Any,
    ) -> Request:
        prompt = encode_raw(tokenizer, text)
        options = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True} | sampling
        name = f"request-{next(counter)}" if id is None else id
        return Request(
            name, prompt.ids, prompt.steerable, Sampling(**options), steering, changes, trace
        )

    return ask


@pytest.fixture(scope="session")
def steer() -> Callable[..., Steering]:
    """Steering from (feature, op, strength[, where[, dictionary]]) tuples."""
    from dictionaries.edits import Op
    from server.engine.types import FeatureEdit, Steering, Where

    def steer(*edits: tuple[Any, ...], keep_norm: bool = False) -> Steering:
        made = []
        for feature, op, strength, *rest in edits:
            where, name = (*rest, *("all", "tiny")[len(rest) :])
            edit = Op(op).edit(strength)
            made.append(FeatureEdit(name, feature, Op(op), strength, edit, Where(where)))
        return Steering(tuple(made), keep_norm)

    return steer


# --- The page in a real browser ---

CHROMIUM = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless browser; it ends with its module, as asyncio tests cannot run beside its loop."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=binary, args=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def desktop(chromium: Any) -> Any:
    """One visitor for a module: what the first page fetched need not be fetched again."""
    return chromium.new_context(
        viewport={"width": 1280, "height": 800}, reduced_motion="reduce", color_scheme="light"
    )


@pytest.fixture
def visit(chromium: Any, desktop: Any) -> Iterator[Callable[..., Any]]:
    """Open an address, as a new visitor where options of one are given. In the end no page may
    have asked another machine for anything, thrown an error or written one to its console.
    """
    contexts: list[Any] = []
    pages: list[Any] = []
    trouble: list[str] = []

    def open_page(url: str, **options: Any) -> Any:
        context = desktop
        if options:
            context = chromium.new_context(reduced_motion="reduce", **options)
            contexts.append(context)
        context.set_default_timeout(30_000)
        page = context.new_page()
        pages.append(page)
        local = ("http://127.0.0.1:", "data:", "blob:")
        page.on("request", lambda r: r.url.startswith(local) or trouble.append(f"asked {r.url}"))
        page.on("console", lambda m: m.type == "error" and trouble.append(f"console: {m.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.goto(url)
        return page

    yield open_page
    for page in pages:
        if not page.is_closed():
            page.evaluate("localStorage.clear()")
            page.close()
    for context in contexts:
        context.close()
    assert not trouble


# --- A model in which steering provably works ---


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    from tiny import plant

    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def subject(planted: Planted) -> Any:
    from server.model_subject import ModelSubject

    site = planted.dictionary.info.site
    return ModelSubject(planted.model, planted.tokenizer, site, planted.dictionary)


@pytest.fixture(scope="module")
def speaker(planted: Planted) -> Iterator[Any]:
    from server.speaker import EngineSpeaker

    made = EngineSpeaker(planted.model, planted.tokenizer, planted.dictionary, rows=32, context=96)
    yield made
    made.close()
