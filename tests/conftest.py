"""Tiny real models, a tokenizer and dictionaries, made here: nothing is downloaded."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from dictionaries.dictionary import Dictionary
from dictionaries.edits import Op
from dictionaries.formats import open_dictionary
from server.engine.seam import Generation
from server.engine.types import (
    Change,
    Delta,
    Failure,
    FeatureEdit,
    Finish,
    Request,
    Sampling,
    Steering,
    Token,
    Where,
)

D_MODEL, LAYERS, D_SAE = 32, 3, 64
UNSTEERED = Steering()
SPECIALS = ["<|begin|>", "<|role|>", "<|end|>"]
CHAT_TEMPLATE = (
    "<|begin|>{% for message in messages %}<|role|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|role|>assistant\n{% endif %}"
)
_WIDE = {"vocab_size": 256 + len(SPECIALS), "hidden_size": D_MODEL, "num_hidden_layers": LAYERS}
_SMALL = {
    **_WIDE,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**_SMALL),
    "gpt2": lambda: GPT2Config(
        vocab_size=256 + len(SPECIALS), n_embd=D_MODEL, n_layer=LAYERS, n_head=4, n_positions=512
    ),
    "gemma2": lambda: Gemma2Config(
        **_SMALL,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=8,
        attn_logit_softcapping=0.5,
        final_logit_softcapping=5.0,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **_SMALL, head_dim=8, query_pre_attn_scalar=8, sliding_window=8, sliding_window_pattern=2
    ),
    "qwen3": lambda: Qwen3Config(
        **_SMALL, head_dim=16, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "gpt_neox": lambda: GPTNeoXConfig(
        **_WIDE, intermediate_size=64, num_attention_heads=4, max_position_embeddings=512
    ),
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level without merges: a token is one byte. Three special tokens, a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    begin, role, end = SPECIALS
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin,
        eos_token=end,
        additional_special_tokens=[role],
        chat_template=CHAT_TEMPLATE,
    )
    return made


def tiny_model(family: str = "llama") -> Any:
    """A new model with the same random weights every time; its attention is far from uniform."""
    config = FAMILIES[family]()
    config.eos_token_id = config.bos_token_id = config.pad_token_id = None
    config.tie_word_embeddings = False  # else a random model repeats its last token
    config._attn_implementation = "eager"
    torch.manual_seed(7)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(25)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.25, generator=generator)
    return model.requires_grad_(False)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    return tiny_model


@pytest.fixture(scope="session")
def make_dictionary(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Dictionary]:
    """A small random SAE in SAELens' format, written to disk and opened like any other."""

    def make(
        id: str = "tiny",
        *,
        layer: int = 1,
        hook: str = "resid_post",
        architecture: str = "jumprelu",
        d_in: int = D_MODEL,
        normalize: str = "none",
        seed: int = 3,
    ) -> Dictionary:
        folder = tmp_path_factory.mktemp("sae") / id
        write_sae(folder, layer, hook, architecture, d_in, normalize, seed)
        return open_dictionary(folder, id=id)

    return make


def write_sae(
    folder: Path, layer: int, hook: str, architecture: str, d_in: int, normalize: str, seed: int
) -> None:
    """W_enc and W_dec are random; about half of the features fire on a token."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    point = {"attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out", "hook_z": "attn.hook_z"}
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": D_SAE,
        "dtype": "float32",
        "apply_b_dec_to_input": True,
        "normalize_activations": normalize,
        "metadata": {
            "sae_lens_version": "6.0.0",
            "model_name": "tiny",
            "hook_name": f"blocks.{layer}.{point.get(hook, 'hook_' + hook)}",
        },
    }
    weights = {
        "W_enc": normal(d_in, D_SAE) / d_in**0.5,
        "W_dec": torch.nn.functional.normalize(normal(D_SAE, d_in), dim=-1),
        "b_enc": 0.1 * normal(D_SAE),
        "b_dec": 0.1 * normal(d_in),
    }
    if architecture == "jumprelu":
        weights["threshold"] = normal(D_SAE).abs() * 0.1
    if architecture in ("topk", "abstopk"):
        config["k"] = 8
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(weights, folder / "sae_weights.safetensors")


@pytest.fixture(scope="session")
def dictionary(make_dictionary: Callable[..., Dictionary]) -> Dictionary:
    """At layer 1 of the tiny models, JumpReLU."""
    return make_dictionary()


@pytest.fixture
def make_engine(
    tokenizer: PreTrainedTokenizerFast, dictionary: Dictionary
) -> Iterator[Callable[..., Any]]:
    """SlotEngines over tiny models, started; closed again after the test."""
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

    running: list[tuple[Any, threading.Thread]] = []
    clients: list[httpx2.Client] = []

    def start(deck: Any, **settings: Any) -> Live:
        loader = deck if callable(deck) else lambda report: deck
        service = Service("tiny", loader)
        app = create_app(service, Settings(ui=False, **settings))
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        server = make_server(app, service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        running.append((server, thread))
        deadline = time.monotonic() + 20
        while not (server.started and (callable(deck) or service.alive)):
            assert time.monotonic() < deadline, service.readiness
            time.sleep(0.005)
        url = f"http://127.0.0.1:{port}"
        clients.append(httpx2.Client(base_url=url, timeout=30))
        return Live(url, service, clients[-1])

    yield start
    for client in clients:
        client.close()
    for server, thread in running:
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive()


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

    counter = itertools.count()

    def ask(
        text: str = "The bridge is red.",
        *,
        id: str | None = None,
        steering: Steering = UNSTEERED,
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


@dataclass(frozen=True)
class Planted:
    """A Llama that speaks in random pairs of words, and a dictionary with a feature to steer it by.

    Every word has four words that are likely after it, and what attention adds makes it differ
    between prompts. `words` are unlikely after anything; the residual's last number is written by
    nothing but `feature`, whose decoder row it is, and makes them likely.
    """

    model: Any
    tokenizer: PreTrainedTokenizerFast
    dictionary: Dictionary
    folder: Path  # model/ and sae/, for commands
    feature: int = 5
    words: tuple[str, ...] = ("bridge", "tower", "cable")


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    from dictionaries.making.neutral import CALIBRATION, EVALUATION

    folder = tmp_path_factory.mktemp("planted")
    words = sorted({word for text in (*CALIBRATION, *EVALUATION) for word in text.split()})
    tokenizer = _word_tokenizer([*Planted.words, *words])
    model = _pairs_model(len(tokenizer), list(range(len(SPECIALS) + 1, len(tokenizer))))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    d_model = model.config.hidden_size
    write_sae(folder / "sae", 1, "resid_post", "jumprelu", d_model, "none", seed=3)
    weights = folder / "sae" / "sae_weights.safetensors"
    tensors = load_file(weights)
    tensors["W_dec"][:, -1] = 0.0
    tensors["W_dec"][Planted.feature] = torch.eye(d_model)[-1]
    tensors["threshold"][Planted.feature] = 1e6  # it never fires by itself
    save_file(tensors, weights)
    return Planted(model, tokenizer, open_dictionary(folder / "sae", id="planted"), folder)


def _word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """A token is a word with the space before it."""
    known = [*SPECIALS, "<|unk|>", *(f"▁{word}" for word in words)]
    backend = Tokenizer(
        models.WordLevel(vocab={word: i for i, word in enumerate(known)}, unk_token="<|unk|>")
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    begin, role, end = SPECIALS
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin,
        eos_token=end,
        unk_token="<|unk|>",
        additional_special_tokens=[role],
        chat_template=f"{begin}{{% for m in messages %}}{role}{{{{ m.content }}}}{end}"
        f"{{% endfor %}}{{% if add_generation_prompt %}}{role}{{% endif %}}",
    )


def _pairs_model(vocab: int, words: list[int]) -> Any:
    """words: ids that are said; the first three are the planted ones."""
    d, likely, unlikely = 128, 6.0, 2.0  # an embedding is a unit vector as long as a normed one
    assert vocab < d
    config = LlamaConfig(**{**_SMALL, "vocab_size": vocab, "hidden_size": d})
    config.eos_token_id = config.bos_token_id = config.pad_token_id = None
    config.tie_word_embeddings = False
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.06, generator=draw)
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    parameter[-1] = 0.0
        model.model.embed_tokens.weight.copy_(d**0.5 * torch.eye(vocab, d))
        head = torch.zeros(vocab, d)
        spoken = torch.tensor(words[3:])
        for word in range(vocab):
            head[spoken[torch.randperm(len(spoken), generator=draw)[:4]], word] = likely / d**0.5
        head[words[:3], :vocab] = unlikely / d**0.5
        head[words[:3], -1] = 0.5
        head[: words[0], :vocab] = -likely / d**0.5
        model.lm_head.weight.copy_(head)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def subject(planted: Planted) -> Any:
    from server.subject import ModelSubject

    site = planted.dictionary.info.site
    return ModelSubject(planted.model, planted.tokenizer, site, planted.dictionary)


@pytest.fixture(scope="module")
def speaker(planted: Planted) -> Iterator[Any]:
    from server.speaker import EngineSpeaker

    made = EngineSpeaker(planted.model, planted.tokenizer, planted.dictionary, rows=32, context=96)
    yield made
    made.close()
