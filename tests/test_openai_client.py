"""The openai package, unchanged, against the real server: steering through `extra_body` or by the
preset's model name.
"""

from __future__ import annotations

import asyncio

import openai
import pytest
from openai.types import completion_create_params as completions
from openai.types.chat import completion_create_params as chat

from server.schemas.foreign import HARMLESS
from server.schemas.requests import ChatRequest, CompletionRequest
from ui import share

HELLO = [{"role": "user", "content": "hello"}]
FOG = {"steering": {"edits": [{"feature": "fog", "strength": 4.0}]}}
SAME = {"messages": HELLO, "temperature": 0, "max_tokens": 8, "seed": 1}


@pytest.fixture(scope="module")
def client(live):
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_reply_and_its_steering_arrive(client, live):
    reply = client.chat.completions.create(model="tiny", extra_body=FOG, **SAME)
    assert (
        reply.choices[0].message.content == (live.chat(**FOG)["choices"][0]["message"]["content"])
    )
    assert reply.usage.completion_tokens <= 8
    assert reply.steering["applied"][0]["feature"] == "tiny/5"
    assert reply.steering["receipt"]["seed"] == 1
    assert reply._request_id.startswith("req_")


@pytest.mark.parametrize("compared", [False, True])
def test_a_program_that_the_page_exports_prints_the_replies_and_their_receipts(
    client, live, compared, capsys
):
    body = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_completion_tokens": 8}
    body |= {"variants": [FOG["steering"]]} if compared else FOG
    exec(share.python(live.url, body, key=False), {})
    printed = capsys.readouterr().out
    assert live.chat(**FOG)["choices"][0]["message"]["content"].strip() in printed
    assert printed.count("'model_revision':") == 1 + compared


def test_a_preset_steers_by_its_model_name_alone(client):
    plain = client.chat.completions.create(model="tiny", **SAME)
    loud = client.chat.completions.create(model="tiny@loud", **SAME)
    assert loud.model == "tiny@loud"
    assert loud.choices[0].message.content != plain.choices[0].message.content
    assert loud.model_extra["steering"]["applied"][0]["feature"] == "tiny/3"


def test_a_stream_is_the_reply_in_pieces(client):
    whole = client.chat.completions.create(model="tiny", extra_body=FOG, **SAME)
    text, extras, usage = "", [], None
    with client.chat.completions.create(
        model="tiny", extra_body=FOG, stream=True, stream_options={"include_usage": True}, **SAME
    ) as stream:
        for chunk in stream:
            extras.append(chunk.model_extra.get("steering"))
            usage = chunk.usage or usage
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
    assert text == whole.choices[0].message.content
    assert usage == whole.usage
    assert extras[0]["applied"] == whole.steering["applied"]
    assert extras[-2]["receipt"] == whole.steering["receipt"]


def test_a_receipt_goes_back_in_as_it_came(client):
    first = client.chat.completions.create(
        model="tiny@loud", messages=HELLO, temperature=1.0, max_tokens=12
    )
    replay = first.steering["receipt"]["replay"]
    again = client.chat.completions.create(model="tiny", messages=HELLO, extra_body=replay)
    assert again.choices[0].message.content == first.choices[0].message.content


def test_logprobs_are_parsed(client):
    reply = client.chat.completions.create(
        model="tiny", logprobs=True, top_logprobs=3, extra_body={"ignore_eos": True}, **SAME
    )
    content = reply.choices[0].logprobs.content
    assert len(content) == 8
    assert all(len(token.top_logprobs) == 3 for token in content)


def test_models_list_the_presets(client):
    ids = [model.id for model in client.models.list()]
    assert ids[:2] == ["tiny", "tiny@loud"]
    one = client.models.retrieve("tiny@loud")
    assert one.owned_by == "steerdeck"
    assert one.steering_preset["title"] == "Loud"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (chat.CompletionCreateParamsStreaming, ChatRequest),
        (completions.CompletionCreateParamsStreaming, CompletionRequest),
    ],
)
def test_every_field_the_client_knows_is_known_here(theirs, ours):
    known = {*ours.model_fields, *ours.unbuilt, *HARMLESS}
    assert set(theirs.__annotations__) <= known


def test_nothing_is_a_no_for_every_switch(client, live):
    off = {"stream": None, "logprobs": None, "stream_options": None}
    reply = client.chat.completions.create(
        model="tiny", extra_body={"ignore_eos": None, **off}, **SAME
    )
    assert reply.choices[0].message.content == live.chat()["choices"][0]["message"]["content"]
    told = live.stream(stream_options={"include_usage": None})
    assert all("usage" not in chunk for chunk in told[:-1])


def test_text_completions_work(client):
    reply = client.completions.create(
        model="tiny", prompt="The bridge", max_tokens=5, temperature=0, extra_body=FOG
    )
    assert reply.choices[0].text
    streamed = client.completions.create(
        model="tiny", prompt="The bridge", max_tokens=5, temperature=0, extra_body=FOG, stream=True
    )
    assert "".join(c.choices[0].text for c in streamed if c.choices) == reply.choices[0].text


@pytest.mark.parametrize(
    ("body", "error", "code"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "model_not_found"),
        ({"temperature": 9}, openai.BadRequestError, "invalid_request"),
        ({"extra_body": {"steering": {"edit": []}}}, openai.BadRequestError, "invalid_request"),
        (
            {"max_tokens": 99999, "extra_body": {"ignore_eos": True}},
            openai.APIStatusError,
            "context_length_exceeded",
        ),
    ],
)
def test_refusals_become_the_clients_own_errors(client, body, error, code):
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "tiny", **SAME, **body})
    assert caught.value.code == code
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


def test_a_generous_limit_is_what_the_context_leaves_and_replays_as_that(client, live):
    generous = {**SAME, "max_tokens": 99999}
    first = client.chat.completions.create(model="tiny", extra_body=FOG, **generous)
    receipt = first.steering["receipt"]
    room = 512 - first.usage.prompt_tokens
    assert receipt["sampling"]["max_completion_tokens"] == room
    again = client.chat.completions.create(
        model="tiny", messages=HELLO, extra_body=receipt["replay"]
    )
    assert again.choices[0] == first.choices[0]
    assert again.steering["receipt"] == receipt
    compared = live.http.post("/v1/compare", json={**generous, "variants": [FOG["steering"]]})
    told = compared.json()["variants"][1]
    assert told["steering"]["receipt"]["sampling"]["max_completion_tokens"] == room
    assert told["message"]["content"] == first.choices[0].message.content
    ids = client.completions.create(model="tiny", prompt=[5] * 500, max_tokens=99999)
    assert ids.steering["receipt"]["sampling"]["max_completion_tokens"] == 12
    assert ids.usage.completion_tokens <= 12
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(model="tiny", prompt=[5] * 512, max_tokens=1)
    assert caught.value.status_code == 413


def test_a_wrong_key_is_an_authentication_error(live, serve):
    keyed = serve(live.service.deck, api_keys="right,other")
    for key, right in (("wrong", False), ("other", True)):
        with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=key, max_retries=0) as client:
            if right:
                assert client.chat.completions.create(model="tiny", **SAME).choices
            else:
                with pytest.raises(openai.AuthenticationError, match="not one of"):
                    client.chat.completions.create(model="tiny", **SAME)


def test_a_full_queue_is_the_clients_rate_limit_error(client):
    """Six replies and two are more than its four rows and three places to wait."""
    long = {**SAME, "max_tokens": 400, "stream": True, "extra_body": {"ignore_eos": True}}
    with client.chat.completions.create(model="tiny", n=6, **long):
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="tiny", n=2, **SAME)
        assert int(caught.value.response.headers["retry-after"]) > 0
        assert caught.value.code == "queue_full"


def test_more_replies_than_there_will_ever_be_room_for_are_refused_for_good(client):
    with pytest.raises(openai.BadRequestError, match="needs 8 rows"):
        client.chat.completions.create(model="tiny", n=8, **SAME)


async def test_the_async_client_hangs_up_and_the_slot_is_free(live):
    async with openai.AsyncOpenAI(
        base_url=f"{live.url}/v1", api_key="none", max_retries=0
    ) as client:
        whole = await client.chat.completions.create(model="tiny", extra_body=FOG, **SAME)
        text = ""
        async for chunk in await client.chat.completions.create(
            model="tiny", extra_body=FOG, stream=True, **SAME
        ):
            text += chunk.choices[0].delta.content or ""
        assert text == whole.choices[0].message.content
        long = {**SAME, "max_tokens": 400, "stream": True}
        stream = await client.chat.completions.create(
            model="tiny", extra_body={"ignore_eos": True}, **long
        )
        async for _ in stream:
            break
        await stream.close()
    for _ in range(500):
        stats = live.service.stats()
        if not (stats.running or stats.waiting or live.service.jobs):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"still at work after the hang-up: {stats}")
