"""`steerdeck make label`, against a chat endpoint of the test's own on 127.0.0.1."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dictionaries.cards import Card, Cards, Example
from dictionaries.errors import DictionaryError
from dictionaries.making.label import label_cards, parse, prompt
from server.cli import app
from server.endpoint import Endpoint
from server.errors import SteerdeckError

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


def test_every_card_gets_its_own_label_signed_and_keeps_the_rest(cards, stub, endpoint):
    stub.answer = lambda _, body: says(f"it was {body['messages'][-1]['content'].count('<<')}")
    done = label_cards(cards, endpoint(), by="m")
    assert (done.labelled, done.refused, len(stub.bodies)) == (12, 0, 12)
    assert labels(cards)[4] == ("it was 3", "m")
    assert labels(cards)[10] == ("it was 0", "m")
    assert cards.get(3) == replace(FOG, label="it was 3", labelled_by="m")
    assert cards.by_slug("the-bridge").feature == 10
    assert cards.search("fires")[1] == 0, "the old label is not found any more"


def test_the_prompt_shows_examples_with_activations_and_promoted_tokens():
    system, user = prompt(FOG)
    assert system["role"] == "system"
    assert "1.  the<< fog>>(10)<< is>>(2)" in user["content"]
    assert "2.  a<< cloud>>(5)" in user["content"]
    assert "' mist', ' haze'" in user["content"]


def test_the_prompt_is_bounded_and_keeps_the_peak_and_the_weak_examples():
    peaked = Example(("x",) * 3000 + (" peak",), (0.0,) * 3000 + (9.0,))
    weak = [Example((f" weak{i}",), (float(20 - i),)) for i in range(19)]
    content = prompt(replace(FOG, examples=(peaked, *weak)))[1]["content"]
    assert len(content) < 2000
    assert " peak>>" in content
    assert "weak18" in content
    assert prompt(Card(1, "nothing known"))[1]["content"] == "Label:"


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("Golden Gate Bridge", "Golden Gate Bridge"),
        ('  "fog and mist."\n', "fog and mist"),
        ("Label: words for weather", "words for weather"),
        ("**Label:** words for weather", "words for weather"),
        ("The label is: rain", "rain"),
        ("Label:\nrain at night", "rain at night"),
        ("<think>It is about\n\nfog.</think>\nfog", "fog"),
        ("words  before\tcommas", "words before commas"),
        ("海の言葉", "海の言葉"),
        ("", None),
        ("<think>I never stop", None),
        ("I'm sorry, but I cannot label this.", None),
        ("As an AI, I see fog", None),
        ("There is not enough evidence", None),
        ("unknown", None),
        ("Various tokens.", None),
        ("12345", None),
        ("...", None),
        ("word " * 13, None),
        ("x" * 81, None),
        ("fog\nIt is about fog.\nAnd mist.", None),
        ("the<< fog>>(10)", None),
        ("fo\x00g", None),
    ],
)
def test_only_a_short_line_that_says_something_is_a_label(reply, label):
    assert parse(reply) == label


def test_nonsense_is_asked_for_again_and_then_the_card_keeps_its_label(cards, stub, endpoint):
    seven = iter(["I cannot.", "unknown", None, "I cannot.", "unknown", "a good label"])
    only = {"concurrency": 1, "by": "m"}
    stub.answer = lambda n, _: says(next(seven) if n < 6 else "fine label")
    done = label_cards(cards, endpoint(), **only)
    assert (done.labelled, done.refused) == (11, 1)
    assert labels(cards)[0] == ("fires on 0", "tokens")
    assert labels(cards)[1] == ("a good label", "m")
    again = label_cards(cards, endpoint(), **only)
    assert (again.labelled, again.refused) == (1, 0), "what had no label is asked again"


def test_a_card_is_asked_about_again_in_another_way(cards, stub, endpoint):
    """At the temperature 0 the same reply would come."""
    stub.answer = lambda *_: says("unknown")
    label_cards(cards, endpoint(), by="m", most=1)
    warmth = [body["temperature"] for body in stub.bodies]
    assert warmth[0] == 0
    assert warmth == sorted(set(warmth))
    assert len(warmth) == 3


@pytest.mark.parametrize("thought", ["<think>\nOkay, let's see", None, "Golden Gate"])
def test_replies_that_are_cut_off_are_no_labels_and_the_error_says_so(
    cards, stub, endpoint, thought
):
    stub.answer = lambda *_: says(thought, ended=False)
    with pytest.raises(DictionaryError, match=r"cut off at 200 tokens.*--max-tokens 2000") as told:
        label_cards(cards, endpoint(), by="m")
    assert "another model" not in str(told.value)
    assert len(stub.bodies) == 12
    stub.answer = lambda n, _: says("fog", ended=n % 3 > 0)
    done = label_cards(cards, endpoint(), by="m")
    assert (done.labelled, done.refused, done.cut) == (8, 4, 4)


def test_a_model_that_only_talks_nonsense_is_given_up(cards, stub, endpoint):
    stub.answer = lambda *_: says("I'm sorry")
    with pytest.raises(DictionaryError, match=r"no usable label for 12 features.*I'm sorry"):
        label_cards(cards, endpoint(), by="m")
    assert "m" not in {by for _, by in labels(cards).values()}


def test_a_model_that_fails_now_and_then_is_not_given_up(tmp_path):
    with Cards.create(tmp_path / "many.sqlite") as many:
        many.put(Card(i, "", promoted=((" yes" if i % 8 == 0 else " no", 1.0),)) for i in range(40))
        done = label_cards(
            many, lambda asked, _: "fog" if "yes" in asked[1]["content"] else "unknown", by="m"
        )
    assert (done.labelled, done.refused) == (5, 35)


def test_cards_that_were_refused_before_do_not_end_the_next_run(tmp_path):
    """They come first, all in a row, and say nothing of those that no run has come to."""
    with Cards.create(tmp_path / "many.sqlite") as many:
        many.put(Card(i, "", promoted=((" yes" if i % 8 == 0 else " no", 1.0),)) for i in range(40))

        def complete(asked: Any, _: float) -> str:
            return "fog" if "yes" in asked[1]["content"] else "unknown"

        label_cards(many, complete, by="m", most=25)
        done = label_cards(many, complete, by="m")
    assert (done.labelled, done.refused) == (1, 35)


def test_what_others_wrote_onto_a_card_while_the_model_thought_stays(cards):
    def complete(*_: Any) -> str:
        with Cards.open(cards.path, writable=True) as theirs:
            theirs.put([replace(theirs.get(0), onset=0.5, breakdown=2.0, strength=1.0)])
        return "fog"

    label_cards(cards, complete, by="m", most=1)
    labelled = cards.get(0)
    assert (labelled.label, labelled.onset, labelled.breakdown) == ("fog", 0.5, 2.0)


def test_only_unlabelled_leaves_concepts_and_other_models_alone(cards, stub, endpoint):
    done = label_cards(cards, endpoint(), by="m", only_unlabelled=True)
    assert done.labelled == len(stub.bodies) == 10
    assert labels(cards)[10] == ("The Bridge", "concept")
    assert labels(cards)[11] == ("old label", "other-model")


def test_a_run_that_breaks_off_keeps_what_it_has_and_goes_on_there(cards, stub, endpoint):
    stub.answer = lambda n, _: says(f"label {n}") if n < 5 else (401, {}, {"error": "no credit"})
    with pytest.raises(SteerdeckError, match=r"refused with 401.*no credit"):
        label_cards(cards, endpoint(), by="m", concurrency=1)
    with Cards.open(cards.path) as reread:
        kept = {i for i, (_, by) in labels(reread).items() if by == "m"}
    assert kept == {0, 1, 2, 3, 4}
    stub.answer = lambda n, _: says(f"later {n}")
    assert label_cards(cards, endpoint(), by="m").labelled == 7
    assert labels(cards)[2] == ("label 2", "m")
    assert label_cards(cards, endpoint(), by="m").labelled == 0


def test_a_run_that_is_stopped_asks_no_more_and_wakes_what_waits(cards):
    stop, numbers = threading.Event(), itertools.count()
    asked: list[int] = []
    woken: list[bool] = []

    def complete(*_: Any) -> str:
        asked.append(number := next(numbers))
        if number == 0:
            return "fog"
        woken.append(stop.wait(5))
        return "unknown"  # no label: it would be asked for again

    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label_cards(cards, complete, by="m", concurrency=3, stop=stop, told=interrupt)
    assert len(asked) <= 3
    assert all(woken)


def test_no_more_requests_are_under_way_than_allowed(cards, stub, endpoint):
    three = threading.Barrier(3)

    def meet(number: int, _: Any) -> Answer:
        three.wait(20)  # passes only if three requests are here together
        return says(f"label {number}")

    stub.answer = meet
    assert label_cards(cards, endpoint(), by="m", concurrency=3).labelled == 12
    assert stub.most_at_once == 3


def test_a_limit_bounds_the_run(cards, stub, endpoint):
    assert label_cards(cards, endpoint(), by="m", most=4).labelled == len(stub.bodies) == 4


def test_a_key_is_sent_without_its_line_end_and_never_told(endpoint):
    for key in ("a-secret\r\n", "ключ"):
        assert endpoint(key=key)(prompt(FOG)).startswith("label")
    with pytest.raises(SteerdeckError, match="the key holds what no header may") as refused:
        endpoint(key="a-secret\nb")(prompt(FOG))
    assert "secret" not in str(refused.value)


def test_a_busy_and_a_failing_server_are_asked_again(stub):
    slept: list[float] = []
    answers: list[Answer] = [
        (429, {"retry-after": "7"}, "slow down"),
        (503, {}, "loading"),
        None,
        (429, {"retry-after": "9999"}, "much slower"),
        says("fog"),
    ]
    stub.answer = lambda n, _: answers[n]
    endpoint = Endpoint(stub.url, model="m", sleep=slept.append)
    assert endpoint(prompt(FOG)) == "fog"
    assert slept == [7.0, 2.0, 4.0, 60.0]
    stub.answer = lambda *_: (500, {}, "broken")
    slept.clear()
    with pytest.raises(SteerdeckError, match=r"did not answer in 6 tries \(500: broken\)"):
        endpoint(prompt(FOG))
    assert slept == [1.0, 2.0, 4.0, 8.0, 16.0]
    endpoint.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, {}, "no such model"), "refused with 404: no such model"),
        ((200, {}, "<html>"), "something other than JSON"),
        ((200, {}, {"choices": []}), "no chat completion"),
        ((200, {}, [1]), "no chat completion"),
    ],
)
def test_an_answer_that_is_none_ends_in_a_sentence(stub, endpoint, answer, message):
    stub.answer = lambda *_: answer
    with pytest.raises(SteerdeckError, match=message):
        endpoint()(prompt(FOG))
    assert len(stub.bodies) == 1


def test_a_server_that_is_not_there_ends_in_a_sentence():
    for url, message in (
        ("http://127.0.0.1:9/v1", "2 tries"),
        ("http://127.0.0.1:x/v1", "no http:// URL"),
        ("localhost:8000/v1", "no http:// URL"),
    ):
        endpoint = Endpoint(url, model="m", tries=2, sleep=lambda _: None)
        with pytest.raises(SteerdeckError, match=message):
            endpoint(prompt(FOG))
        endpoint.close()


def test_models_that_refuse_a_temperature_and_max_tokens_are_humoured(stub, endpoint):
    def picky(_: int, body: Any) -> Answer:
        if "max_tokens" in body:
            return 400, {}, {"error": {"message": "use 'max_completion_tokens' instead"}}
        if "temperature" in body:
            return 400, {}, {"error": {"message": "'temperature' does not support 0"}}
        return says("fog")

    stub.answer = picky
    asked = endpoint(max_tokens=99)
    assert asked(prompt(FOG)) == "fog"
    assert asked(prompt(FOG)) == "fog"
    assert len(stub.bodies) == 4, "it remembers"
    assert stub.bodies[-1]["max_completion_tokens"] == 99


def command(cards: Cards, stub: Stub, *more: str) -> Any:
    base = ["make", "label", "--cards", str(cards.path), "--base-url", stub.url]
    return CliRunner().invoke(app, [*base, *more])


def test_the_command_labels_and_says_so(cards, stub, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-key")
    done = command(cards, stub, "--only-unlabelled", "--key-env", "MY_KEY")
    assert done.exit_code == 0, done.output
    assert "10 features labelled by first-model" in done.output
    assert "secret-key" not in done.output
    assert {h["authorization"] for h in stub.headers} == {"Bearer secret-key"}
    assert {body["model"] for body in stub.bodies} == {"first-model"}
    again = command(cards, stub, "--only-unlabelled", "--key-env", "MY_KEY")
    assert "nothing to do: every feature has a label by first-model, or another's" in again.output
    assert len(stub.bodies) == 10
    assert "2 features labelled" in command(cards, stub, "--key-env", "MY_KEY").output
    whole = command(cards, stub, "--key-env", "MY_KEY").output
    assert "nothing to do: every feature has a label by first-model\n" in whole


def test_the_command_stops_at_once_while_the_server_is_busy(cards, stub, monkeypatch):
    @contextmanager
    def interrupting(*_: object) -> Iterator[Callable[..., None]]:
        def advance(*_: object) -> None:
            raise KeyboardInterrupt

        yield advance

    busy = (429, {"retry-after": "30"}, "slow down")
    stub.answer = lambda n, _: busy if n < 3 else says("fog")
    monkeypatch.setattr("server.cli.make_label.advancing", interrupting)
    began = time.monotonic()
    done = command(cards, stub, "--concurrency", "4")
    assert done.exit_code == 130
    assert time.monotonic() - began < 15


def test_the_commands_refusals_are_sentences(cards, stub, monkeypatch, tmp_path):
    monkeypatch.delenv("NO_KEY", raising=False)
    for more, message in (
        (["--key-env", "NO_KEY"], "NO_KEY is empty"),
        (["--model", "tokens"], "cannot sign labels"),
        (["--cards", str(tmp_path / "none.sqlite")], "there is no cards file"),
    ):
        refused = command(cards, stub, *more)
        assert refused.exit_code == 1, more
        assert message in refused.output
    assert not stub.bodies
