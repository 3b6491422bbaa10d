"""A chat endpoint of the test's own on 127.0.0.1, and cards to label by it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dictionaries.cards import Card, Cards, Example
from server.endpoint import Endpoint

Answer = tuple[int, dict[str, str], Any] | None  # status, headers, body; None: hang up


@dataclass
class Stub:
    """A real HTTP server. `answer` gets the number of the request, from 0, and its body."""

    url: str
    answer: Callable[[int, Any], Answer]
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def says(text: str | None, *, ended: bool = True) -> Answer:
    reason = "stop" if ended else "length"
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return 200, {}, {"choices": [choice]}


@pytest.fixture
def stub() -> Iterator[Stub]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send(200, {}, {"data": [{"id": "first-model"}, {"id": "second"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with made.lock:
                number = len(made.bodies)
                made.bodies.append(body)
                made.headers.append(dict(self.headers.items()))
                made.at_once += 1
                made.most_at_once = max(made.most_at_once, made.at_once)
            answer = made.answer(number, body)
            with made.lock:
                made.at_once -= 1
            if answer is None:
                self.connection.close()
            else:
                self.send(*answer)

        def send(self, status: int, headers: dict[str, str], body: Any) -> None:
            content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Stub(f"http://127.0.0.1:{server.server_port}/v1", lambda n, _: says(f"label {n}"))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


FOG = Card(
    3,
    "fires on fog",
    maximum=8.0,
    promoted=((" mist", 3.0), (" haze", 2.0)),
    examples=(
        Example((" the", " fog", "\nis"), (0.0, 8.0, 2.0), (7.0, 8.0)),
        Example((" a", " cloud"), (0.0, 4.0), (3.0, 4.0)),
    ),
    labelled_by="tokens",
)


@pytest.fixture
def cards(tmp_path: Path) -> Iterator[Cards]:
    """Twelve cards: one of a concept, one labelled by another model, the rest by their tokens."""
    with Cards.create(tmp_path / "cards.sqlite") as made:
        made.put([replace(FOG, feature=i, label=f"fires on {i}") for i in range(10)])
        made.put([Card(10, "The Bridge", "the-bridge", labelled_by="concept")])
        made.put([Card(11, "old label", labelled_by="other-model", examples=FOG.examples)])
        yield made


@pytest.fixture
def endpoint(stub: Stub) -> Iterator[Callable[..., Endpoint]]:
    made: list[Endpoint] = []

    def make(**options: Any) -> Endpoint:
        made.append(Endpoint(stub.url, **({"model": "m", "sleep": lambda _: None} | options)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def labels(cards: Cards) -> dict[int, tuple[str, str | None]]:
    return {c.feature: (c.label, c.labelled_by) for i in range(12) if (c := cards.get(i))}
