"""The client commands against servers that refuse, break off, say much or are something else."""

from __future__ import annotations

import json
import os

import httpx2
import pytest
from typer.testing import CliRunner

from server.cli import app
from server.cli.common import Api

SSE = {"content-type": "text/event-stream"}
BUSY = httpx2.Response(429, json={"error": {"message": "the queue is full"}})
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in [name for name in os.environ if name.startswith("STEERDECK_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def answers(monkeypatch):
    """Make a server of these answers, an exception among them raised; what it was asked."""

    def answers(*given):
        asked, left = [], list(given)

        def handle(request):
            asked.append(json.loads(request.content or "null"))
            answer = left.pop(0)
            if isinstance(answer, httpx2.Response):
                return answer
            raise answer

        transport = httpx2.MockTransport(handle)
        monkeypatch.setattr(
            Api, "_client", lambda api: httpx2.Client(base_url=api.url, transport=transport)
        )
        return asked

    return answers


def run(*arguments, **options):
    return CliRunner().invoke(app, list(arguments), **options)


def chunk(text="", reason=None, **more):
    return {"choices": [{"delta": {"content": text}, "finish_reason": reason}], **more}


def stream(*chunks, end="data: [DONE]\n\n"):
    events = "".join(f"data: {json.dumps(one)}\n\n" for one in chunks)
    return httpx2.Response(200, headers=SSE, text=events + end)


class Breaks(httpx2.SyncByteStream):
    """The beginning of a reply, and then a connection that is gone."""

    def __init__(self, error):
        self.error = error

    def __iter__(self):
        yield f"data: {json.dumps(chunk('half a '))}\n\n".encode()
        raise self.error


def test_a_refused_turn_costs_a_conversation_nothing_else(answers):
    asked = answers(stream(chunk("Hi")), BUSY, stream(chunk("Yes")))
    said = run("chat", input="hello\nlost\nagain\n")
    assert said.stdout == "Hi\nYes\n"
    assert said.stderr == "steerdeck: the queue is full\n"
    assert said.exit_code == 1
    assert asked[2]["messages"] == [
        *HELLO,
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "again"},
    ]


def test_an_interrupted_reply_costs_a_conversation_that_turn_only(answers):
    asked = answers(
        stream(chunk("Hi")),
        httpx2.Response(200, headers=SSE, stream=Breaks(KeyboardInterrupt())),
        stream(chunk("Yes")),
    )
    said = run("chat", input="hello\nlost\nagain\n")
    assert (said.exit_code, said.stdout) == (0, "Hi\nhalf a \nYes\n")
    assert "stopped" in said.stderr
    assert [turn["content"] for turn in asked[2]["messages"]] == ["hello", "Hi", "again"]


def test_a_single_question_that_is_refused_is_a_failure(answers):
    answers(BUSY)
    said = run("chat", "hello")
    assert (said.exit_code, said.stderr) == (1, "steerdeck: the queue is full\n")


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("stop", ""),
        ("length", "--max-tokens"),
        ("cancelled", "stopped"),
        ("steering_abort", "condition"),
        ("steering_guard", "guard"),
        ("content_filter", "content_filter"),
    ],
)
def test_why_a_reply_ended_early_is_told(answers, reason, told):
    answers(stream(chunk("Hi"), chunk(reason=reason)))
    said = run("chat", "hello")
    assert (said.exit_code, said.stdout) == (0, "Hi\n")
    assert told in said.stderr
    assert said.stderr.count("\n") == bool(told)


@pytest.mark.parametrize(
    ("answer", "printed"),
    [
        (httpx2.Response(200, headers=SSE, stream=Breaks(httpx2.ReadError("gone"))), "half a \n"),
        (stream(chunk("half a "), end=""), "half a \n"),
        (httpx2.ReadError("gone"), ""),
    ],
)
def test_a_reply_that_breaks_off_is_told_as_that(answers, answer, printed):
    answers(answer)
    said = run("chat", "hello")
    assert (said.exit_code, said.stdout) == (1, printed)
    assert "broke" in said.stderr
    assert "no server answers" not in said.stderr


def test_a_chunk_may_be_longer_than_a_mebibyte(answers):
    receipt = {"timeline": ["x" * 2**21]}
    answers(stream(chunk("Hi"), chunk(reason="stop", steering={"receipt": receipt})))
    said = run("chat", "hello", "--receipt")
    assert said.exit_code == 0, said.stderr[:200]
    assert json.loads(said.stderr) == receipt


PAGE = httpx2.Response(200, html="<h1>Router</h1>")
MOVED = httpx2.Response(307, headers={"location": "https://deck.example/"})


@pytest.mark.parametrize("command", [["chat", "hello"], ["presets", "list"]])
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (PAGE, "not Steerdeck's API"),
        (httpx2.Response(200, json=[]), "not Steerdeck's API"),
        (httpx2.Response(200, headers=SSE, text="data: what?\n\n"), "not Steerdeck's API"),
        (MOVED, "points to https://deck.example/"),
    ],
)
def test_what_is_no_steerdeck_is_a_sentence(answers, command, answer, told):
    answers(answer)
    said = run(*command)
    assert said.exit_code == 1
    assert told in said.stderr
    assert said.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "option", [["-s", "fog:nan"], ["-s", "fog:-inf:add"], ["--temperature", "nan"]]
)
def test_what_is_no_number_is_refused_before_it_is_sent(answers, option):
    asked = answers()
    said = run("chat", "hello", *option)
    assert said.exit_code == 1
    assert said.stderr.startswith("steerdeck: --")
    assert not asked


@pytest.mark.parametrize(
    ("url", "by_proxy"),
    [
        ("http://localhost:8000", False),
        ("http://127.0.0.2:8000", False),
        ("http://[::1]:8000", False),
        ("http://gpu-box:8000", True),
        ("http://192.168.1.5", True),
    ],
)
def test_a_proxy_for_the_outside_gets_nothing_that_is_for_this_machine(url, by_proxy):
    with Api(url)._client() as http:
        assert http.trust_env is by_proxy


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["chat", "caf\udce9"], "no UTF-8"),
        (["features", "search", "caf\udce9"], "no UTF-8"),
        (["features", "show", "caf\udce9"], "no server answers"),
    ],
)
def test_bytes_that_are_no_text_are_no_stack_trace(command, told):
    """Python reads them off a command line as halves of characters."""
    said = run(*command, "--url", "http://127.0.0.1:9")
    assert said.exit_code == 1
    assert said.stderr.startswith("steerdeck: ")
    assert told in said.stderr


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "ftp://127.0.0.1"])
def test_a_proxy_that_cannot_be_used_is_a_sentence(proxy, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", proxy)
    said = run("presets", "list", "--url", "http://gpu-box.invalid")
    assert said.exit_code == 1
    assert said.stderr.startswith("steerdeck: a proxy of the environment cannot be used")


@pytest.mark.parametrize(("key", "sent"), [("a-secret\r", True), ("a-secret\nb", False)])
def test_a_key_is_never_printed(key, sent, live, monkeypatch):
    """A line of an .env file may end as Windows ends it; within a key a line break is a slip."""
    monkeypatch.setenv("STEERDECK_API_KEY", key)
    said = run("presets", "list", "--url", live.url)
    assert (said.exit_code == 0) is sent
    assert ("STEERDECK_API_KEY holds what no header may" in said.stderr) is not sent
    assert "a-secret" not in said.output
