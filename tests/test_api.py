"""Replies over HTTP: real app, real engine, real socket, a tiny random model."""

from __future__ import annotations

import json

import pytest

FOG = {"edits": [{"feature": "fog", "op": "clamp", "strength": 4.0}]}
LONG = {"ignore_eos": True, "max_tokens": 12, "seed": 1}


def text_of(reply):
    return reply["choices"][0]["message"]["content"]


def joined(events, index=0):
    chunks = [c for e in events if e != "[DONE]" for c in e["choices"] if c["index"] == index]
    return "".join(chunk["delta"].get("content", "") for chunk in chunks)


def test_a_reply_has_the_shape_openai_gives_it(live):
    reply = live.chat()
    assert reply["object"] == "chat.completion"
    assert reply["id"].startswith("chatcmpl-")
    assert reply["model"] == "tiny"
    assert reply["choices"][0]["message"]["role"] == "assistant"
    assert reply["choices"][0]["finish_reason"] in ("stop", "length")
    assert reply["choices"][0]["logprobs"] is None
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["completion_tokens"] <= 8


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"steering": FOG},
        {"temperature": 1.0, "seed": 5, "steering": FOG},
        {"stop": ["e"], "temperature": 1.5, "seed": 2},
        {"logprobs": True, "top_logprobs": 3, "steering": FOG | {"trace": ["activations"]}},
        {"n": 3, "temperature": 1.0, "seed": 9},
    ],
)
def test_a_streamed_reply_is_the_one_in_one_piece(live, body):
    whole, events = live.chat(**LONG | body), live.stream(**LONG | body)
    for choice in whole["choices"]:
        mine = [c for e in events[:-1] for c in e["choices"] if c["index"] == choice["index"]]
        assert joined(events, choice["index"]) == choice["message"]["content"]
        assert [c["finish_reason"] for c in mine if c["finish_reason"]] == [choice["finish_reason"]]
        told = [t for c in mine for t in (c["logprobs"] or {}).get("content", [])]
        assert told == (choice["logprobs"] or {}).get("content", [])
    streamed = [r for e in events[:-1] for r in e.get("steering", {}).get("activations", [])]
    assert streamed == whole["steering"].get("activations", [])
    receipts = [e["steering"]["receipt"] for e in events[:-1] if "receipt" in e.get("steering", {})]
    assert sorted(map(json.dumps, receipts)) == sorted(
        map(json.dumps, whole["steering"].get("receipts", [whole["steering"]["receipt"]]))
    )


def test_a_stream_begins_with_the_role_and_ends_with_one_finish_and_done(live):
    events = live.stream(steering=FOG, **LONG)
    first = events[0]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["steering"]["id"] == first["id"]
    assert [e["feature"] for e in first["steering"]["applied"]] == ["tiny/5"]
    assert events[-1] == "[DONE]"
    ends = [e for e in events[:-1] if e["choices"][0]["finish_reason"]]
    assert ends == [events[-2]]
    assert ends[0]["choices"][0]["delta"] == {}
    assert len({(e["id"], e["created"], e["system_fingerprint"]) for e in events[:-1]}) == 1
    assert all("usage" not in e for e in events[:-1])


def test_usage_is_one_more_chunk_and_only_if_asked(live):
    events = live.stream(stream_options={"include_usage": True})
    assert [e["usage"] for e in events[:-2]] == [None] * (len(events) - 2)
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] == live.chat()["usage"]["completion_tokens"]


def test_events_are_separated_as_openai_separates_them(live):
    body = {"messages": [{"role": "user", "content": "a"}], "stream": True, "max_tokens": 2}
    raw = live.http.post("/v1/chat/completions", json=body)
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.content.endswith(b"data: [DONE]\n\n")
    assert b"\r" not in raw.content


def test_steering_changes_the_reply_and_says_what_it_did(live):
    plain = live.chat(**LONG)
    steered = live.chat(steering=FOG | {"trace": ["activations"]}, **LONG)
    assert text_of(plain) != text_of(steered)
    told = steered["steering"]
    assert told["applied"] == [
        {
            "feature": "tiny/5",
            "op": "clamp",
            "strength": 6.0,  # 4 times its maximum of 1.5
            "unit": "raw",
            "where": "all",
            "label": "fog and mist",
        }
    ]
    after = [r["features"][0]["after"] for r in told["activations"][1:]]
    assert after == [pytest.approx(6.0)] * 11
    assert told["receipt"]["tokens_edited"] > 0
    assert plain["steering"]["receipt"]["tokens_edited"] == 0


@pytest.mark.parametrize("feature", [5, "5", "tiny/5", "fog", "tiny/fog"])
def test_a_feature_has_many_names(live, feature):
    edits = [{"feature": feature, "strength": 4.0}]
    assert text_of(live.chat(steering={"edits": edits})) == text_of(live.chat(steering=FOG))


def test_raw_units_are_activations_and_max_units_multiples_of_the_maximum(live):
    raw = {"edits": [{"feature": "fog", "strength": 6.0, "unit": "raw"}]}
    assert text_of(live.chat(steering=raw)) == text_of(live.chat(steering=FOG))


@pytest.mark.parametrize(
    ("op", "numbers"),
    [
        ("add", (1, 3, None, None)),
        ("clamp", (0, 3, None, None)),
        ("scale", (2, 0, None, None)),
        ("ablate", (0, 0, None, None)),
        ("at_least", (1, 0, 3, None)),
        ("at_most", (1, 0, None, 3)),
    ],
)
def test_the_receipt_resolves_every_op_to_its_four_numbers(live, op, numbers):
    edit = {"feature": "fog", "op": op, "strength": 2.0, "where": "generated"}
    (resolved,) = live.chat(steering={"edits": [edit]})["steering"]["receipt"]["edits"]
    assert tuple(resolved[name] for name in ("scale", "shift", "floor", "ceiling")) == numbers
    assert (resolved["unit"], resolved["where"]) == ("raw", "generated")


def test_the_receipt_names_model_dictionary_seed_and_versions(live):
    receipt = live.chat(steering=FOG, seed=77)["steering"]["receipt"]
    assert receipt["model"] == "tiny"
    assert receipt["seed"] == 77
    assert receipt["dictionaries"][0]["id"] == "tiny"
    assert len(receipt["dictionaries"][0]["revision"]) == 16
    assert set(receipt["versions"]) == {"steerdeck", "torch", "transformers"}
    assert (receipt["device"], receipt["dtype"]) == ("cpu", "float32")
    assert receipt["arithmetic"] == "eager"
    assert receipt["sampling"]["max_completion_tokens"] == 8


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"temperature": 1.2, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "stop": ["x", "yz"]},
        {"temperature": 1.0, "frequency_penalty": 0.5, "presence_penalty": -0.5},
        {"temperature": 1.0, "steering": {"preset": "loud", "norm": "keep"}},
        {"temperature": 1.0, "model": "tiny@loud", "max_tokens": None},
        {"temperature": 1.0, "n": 3, "steering": FOG},
    ],
)
def test_messages_and_a_receipts_replay_give_the_same_bytes(live, body):
    reply = live.chat("say it again", **body)
    receipts = reply["steering"].get("receipts", [reply["steering"]["receipt"]])
    assert len(receipts) == len(reply["choices"])
    for choice, receipt in zip(reply["choices"], receipts, strict=True):
        again = live.chat("say it again", **body | receipt["replay"])
        assert len(again["choices"]) == 1
        assert text_of(again) == choice["message"]["content"]
        assert again["steering"]["receipt"] == receipt


@pytest.mark.parametrize("temperature", [0, 1e-6, 1e-300])
def test_the_coldest_temperatures_are_greedy(live, temperature):
    reply = live.chat(temperature=temperature, seed=2)
    assert text_of(reply) == text_of(live.chat(temperature=0, seed=3))
    assert reply["steering"]["receipt"]["sampling"]["temperature"] == 0


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63 - 1])
def test_every_64_bit_seed_works_and_replays(live, seed):
    reply = live.chat(seed=seed, temperature=1.0, n=2)
    for choice, receipt in zip(reply["choices"], reply["steering"]["receipts"], strict=True):
        again = live.chat(**receipt["replay"])
        assert text_of(again) == choice["message"]["content"]


def test_a_drawn_seed_is_told_and_differs_between_replies(live):
    seeds = {live.chat(temperature=1.0)["steering"]["receipt"]["seed"] for _ in range(4)}
    assert len(seeds) == 4


def test_the_ith_of_n_replies_has_the_seed_plus_i(live):
    many = live.chat(**LONG | {"n": 3, "seed": 40, "temperature": 1.0})
    for i, choice in enumerate(many["choices"]):
        alone = live.chat(**LONG | {"seed": 40 + i, "temperature": 1.0})
        assert text_of(alone) == choice["message"]["content"]
    assert many["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
    assert many["usage"]["completion_tokens"] == 3 * 12


def test_a_preset_is_a_model_name_or_a_field_and_means_its_edits(live):
    edits = [{"feature": "golden-gate-bridge", "strength": 4.0}]
    expected = text_of(live.chat(steering={"edits": edits}, **LONG))
    assert text_of(live.chat(model="tiny@loud", **LONG)) == expected
    assert text_of(live.chat(steering={"preset": "loud"}, **LONG)) == expected
    both = live.chat(steering=FOG | {"preset": "loud"})
    assert [e["feature"] for e in both["steering"]["applied"]] == ["tiny/3", "tiny/5"]


def test_content_may_be_parts_and_developer_is_system(live):
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    prompts = [
        live.chat(said)["steering"]["receipt"]["prompt_sha256"] for said in (parts, "hel\nlo")
    ]
    assert prompts[0] == prompts[1]
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}]
    expected = text_of(live.chat(messages=turns))
    turns[0]["role"] = "developer"
    assert text_of(live.chat(messages=turns)) == expected
    spoken = {"role": "assistant", "content": None, "refusal": None, "tool_calls": None}
    assert text_of(live.chat(messages=[*turns, spoken, turns[1]])) is not None


def test_harmless_openai_fields_are_let_pass(live):
    extras = {"user": "u", "metadata": {"a": "b"}, "store": False, "tools": [], "logit_bias": {}}
    more = {"response_format": {"type": "text"}, "x_client": 1, "tool_choice": None}
    assert text_of(live.chat(**extras, **more)) == text_of(live.chat())


def test_both_words_for_the_length_mean_the_same(live):
    reply = live.chat(max_tokens=None, max_completion_tokens=5, ignore_eos=True)
    assert reply["usage"]["completion_tokens"] == 5
    assert reply["choices"][0]["finish_reason"] == "length"


def test_logprobs_tell_the_token_and_its_rivals(live):
    reply = live.chat(logprobs=True, top_logprobs=2, max_tokens=6)
    told = reply["choices"][0]["logprobs"]["content"]
    assert len(told) == reply["usage"]["completion_tokens"]
    for token in told:
        assert len(token["top_logprobs"]) == 2
        assert token["logprob"] == token["top_logprobs"][0]["logprob"] <= 0  # greedy
    spelled = bytes(b for t in told for b in t["bytes"]).decode("utf-8", "replace")
    whole = text_of(reply).rstrip("\ufffd")  # half a character may be left at the end
    assert len(whole) >= 2
    assert spelled.startswith(whole)


class TestCompletions:
    def ask(self, live, **body):
        body = {"temperature": 0, "max_tokens": 8, **body}
        response = live.http.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def test_a_text_goes_on_without_a_chat_template(self, live):
        reply = self.ask(live, prompt="The bridge")
        assert reply["object"] == "text_completion"
        assert reply["usage"]["prompt_tokens"] == len("The bridge")
        assert reply["choices"][0]["text"]

    def test_token_ids_mean_the_text_they_stand_for(self, live, tokenizer):
        ids = tokenizer("The bridge")["input_ids"]
        as_ids = self.ask(live, prompt=ids, steering=FOG)
        as_text = self.ask(live, prompt="The bridge", steering=FOG)
        assert as_ids["choices"] == as_text["choices"]
        assert as_ids["steering"]["receipt"] == {
            **as_text["steering"]["receipt"],
            "seed": as_ids["steering"]["receipt"]["seed"],
            "replay": as_ids["steering"]["receipt"]["replay"],
        }

    def test_several_prompts_are_several_choices(self, live):
        reply = self.ask(live, prompt=["one", "other"], n=2, seed=3, temperature=1.0)
        assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
        assert reply["usage"]["prompt_tokens"] == len("one") + len("other")
        alone = self.ask(live, prompt="other", seed=5, temperature=1.0)
        assert alone["choices"][0]["text"] == reply["choices"][2]["text"]
        replay = reply["steering"]["receipts"][2]["replay"]
        again = self.ask(live, **{"prompt": "other", "n": 2} | replay)
        assert [choice["text"] for choice in again["choices"]] == [alone["choices"][0]["text"]]

    def test_prompts_have_four_shapes(self, live, tokenizer):
        ids = [tokenizer(text)["input_ids"] for text in ("one", "other")]
        alone = [self.ask(live, prompt=one)["choices"][0] for one in ("one", "other")]
        assert self.ask(live, prompt=ids[1])["choices"] == [alone[1] | {"index": 0}]
        for several in (["one", "other"], ids):
            choices = self.ask(live, prompt=several)["choices"]
            assert choices == [one | {"index": i} for i, one in enumerate(alone)]

    def test_a_batch_of_prompts_is_answered_in_order(self, live, make_deck, serve):
        roomy = serve(make_deck(max_rows=4, max_waiting=16))
        texts = [f"text {i}" for i in range(20)]
        choices = self.ask(roomy, prompt=texts, max_tokens=3)["choices"]
        assert [choice["index"] for choice in choices] == list(range(20))
        alone = self.ask(live, prompt=texts[17], max_tokens=3)["choices"][0]
        assert choices[17]["text"] == alone["text"]

    def test_logprobs_have_the_older_shape(self, live):
        reply = self.ask(live, prompt="The bridge", logprobs=2, ignore_eos=True)
        told = reply["choices"][0]["logprobs"]
        assert len(told["tokens"]) == len(told["token_logprobs"]) == len(told["text_offset"]) == 8
        assert told["text_offset"][0] == 0
        streamed = self.streamed(live, prompt="The bridge", logprobs=2, ignore_eos=True)
        offsets = [o for c in streamed if c["logprobs"] for o in c["logprobs"]["text_offset"]]
        assert offsets == told["text_offset"]

    def test_an_offset_is_where_the_token_stands_in_the_text(self, live):
        """Among bytes that are no characters, and special tokens."""
        wild = {"temperature": 2.0, "max_tokens": 200, "ignore_eos": True, "seed": 4}
        (choice,) = self.ask(live, prompt="The bridge", logprobs=0, **wild)["choices"]
        told, seen = choice["logprobs"], set()
        for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
            seen.add(0 if token.startswith("bytes:") else len(token))
            if len(token) == 1:
                # What this token's byte showed to be no character goes before it.
                assert choice["text"][offset:].lstrip("\ufffd").startswith(token)
        assert {0, 1} < seen

    def streamed(self, live, **body):
        body = {"temperature": 0, "max_tokens": 8, "stream": True, **body}
        with live.http.sse("/v1/completions", method="POST", json=body) as events:
            return [json.loads(e.data)["choices"][0] for e in events if e.data != "[DONE]"]

    def test_a_streamed_text_is_the_one_in_one_piece(self, live):
        chunks = self.streamed(live, prompt="The bridge", steering=FOG)
        whole = self.ask(live, prompt="The bridge", steering=FOG)
        assert "".join(chunk["text"] for chunk in chunks) == whole["choices"][0]["text"]

    def test_a_receipt_replays_here_too(self, live):
        reply = self.ask(live, prompt="The bridge", temperature=1.0, steering=FOG)
        replay = reply["steering"]["receipt"]["replay"]
        again = self.ask(live, prompt="The bridge", **replay)
        assert again["choices"] == reply["choices"]
