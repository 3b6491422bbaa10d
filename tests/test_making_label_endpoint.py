"""The endpoint that writes labels: busy, refusing, gone, or with wishes of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import label_stub
import pytest
from label_stub import FOG, Answer, labels, says

from dictionaries.errors import DictionaryError
from dictionaries.making.label import label_cards, prompt
from server.endpoint import Endpoint
from server.errors import SteerdeckError

stub, cards, endpoint = label_stub.stub, label_stub.cards, label_stub.endpoint  # fixtures


def test_a_key_is_sent_without_its_line_end_and_never_told(endpoint):
    for key in ("a-secret\r\n", "ключ"):
        assert endpoint(key=key)(prompt(FOG)).startswith("label")
    with pytest.raises(SteerdeckError, match="the key holds what no header may") as refused:
        endpoint(key="a-secret\nb")(prompt(FOG))
    assert "secret" not in str(refused.value)


def test_a_busy_and_a_failing_server_are_asked_again_each_by_its_own_patience(stub):
    slept: list[float] = []
    told: list[str] = []
    answers: list[Answer] = [
        (429, {"retry-after": "7"}, "slow down"),
        (503, {}, "loading"),
        None,
        (429, {"retry-after": "9999"}, "much slower"),
        (502, {}, "bad gateway"),
        says("fog"),
    ]
    stub.answer = lambda n, _: answers[n]
    endpoint = Endpoint(stub.url, model="m", sleep=slept.append, told=told.append)
    assert endpoint(prompt(FOG)) == "fog"
    assert slept == [7.0, 8.0, 1.0, 60.0, 2.0]
    assert told[1] == "the endpoint is busy (503), asked again in 8 s"
    assert told[-1] == "the endpoint is failing (502), asked again in 2 s"
    endpoint.close()


@pytest.mark.parametrize(
    ("status", "pauses", "said"),
    [
        (
            429,
            [1, 2, 4, 8, 16, 32, *[60] * 8],
            r"busy for 9 minutes of pauses \(429: .*smaller --c",
        ),
        (500, [1, 2, 4, 8, 16], r"asked again for 31 s \(500: no\): what came is kept, start"),
    ],
)
def test_a_server_that_stays_busy_is_given_minutes_and_one_that_fails_half_of_one(
    stub, status, pauses, said
):
    """Free tiers answer 429 for the rest of a minute, without saying how long that is."""
    slept: list[float] = []
    stub.answer = lambda *_: (status, {}, "no")
    endpoint = Endpoint(stub.url, model="m", sleep=slept.append)
    with pytest.raises(SteerdeckError, match=said):
        endpoint(prompt(FOG))
    assert slept == pauses
    endpoint.close()


def test_an_account_without_credit_is_not_waited_for(stub, endpoint):
    error = {"message": "You exceeded your current quota", "code": "insufficient_quota"}
    stub.answer = lambda *_: (429, {}, {"error": error})
    with pytest.raises(SteerdeckError, match=r"refused with 429: .*exceeded your current quota"):
        endpoint()(prompt(FOG))
    assert len(stub.bodies) == 1


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
        ("http://127.0.0.1:9/v1", "did not answer, asked again for 31 s .*same command again"),
        ("http://127.0.0.1:x/v1", "no http:// URL"),
        ("localhost:8000/v1", "no http:// URL"),
    ):
        endpoint = Endpoint(url, model="m", sleep=lambda _: None)
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


def test_a_card_that_a_content_filter_refuses_does_not_keep_the_others_from_their_labels(
    stub, cards, endpoint, caplog
):
    """It would be asked about first whenever the command is started again."""
    cards.put([replace(FOG, feature=2, label="fires on 2", promoted=((" gore", 1.0),))])
    filtered: Answer = (400, {}, {"error": {"message": "blocked by the content filter"}})
    stub.answer = lambda _, body: filtered if " gore" in str(body["messages"]) else says("fog")
    done = label_cards(cards, endpoint(), by="m")
    assert (done.labelled, done.refused, len(stub.bodies)) == (11, 1, 12)
    assert labels(cards)[2] == ("fires on 2", "tokens")
    assert "feature 2 was refused with 400" in caplog.text
    assert "content filter" in caplog.text


def test_an_endpoint_that_refuses_every_card_ends_the_run_with_its_reason(stub, cards, endpoint):
    stub.answer = lambda *_: (400, {}, "no such model")
    with pytest.raises(DictionaryError, match=r"12 features in a row.*with 400: no such model"):
        label_cards(cards, endpoint(), by="m")
    assert len(stub.bodies) == 12
