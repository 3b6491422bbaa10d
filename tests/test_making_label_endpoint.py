"""The endpoint that writes labels: busy, refusing, gone, or with wishes of its own."""

from __future__ import annotations

from typing import Any

import label_stub
import pytest
from label_stub import FOG, Answer, says

from dictionaries.making.label import prompt
from server.endpoint import Endpoint
from server.errors import SteerdeckError

stub, endpoint = label_stub.stub, label_stub.endpoint  # fixtures


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
