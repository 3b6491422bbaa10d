"""POST /v1/completions: prompts of every shape, their choices, streams, offsets and refusals."""

from __future__ import annotations

import json

import pytest
from api_talk import FOG, USER


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


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({}, "prompt is missing"),
        ({"prompt": ""}, "empty"),
        ({"prompt": []}, "at least 1"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": [259]}, "0..258"),
        ({"prompt": [[1], "a"]}, "prompt[1]"),
        ({"prompt": [[1, "a"]]}, "prompt[0][1]"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a"] * 65}, "at most 64"),
        ({"prompt": ["a"] * 9, "n": 8}, "64 replies"),
        ({"prompt": "a", "echo": True, "stream": True}, "echo"),
        ({"prompt": "a", "echo": 1.5}, "echo"),
        ({"prompt": "a", "max_tokens": 0}, "echo true"),
        ({"prompt": "a", "prompt_logprobs": 1}, "prompt_logprobs"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "logprobs": True}, "number"),
        ({"prompt": "a", "messages": USER, "stream_options": {}}, "stream"),
    ],
)
def test_a_bad_text_completion_is_refused(live, body, names):
    response = live.http.post("/v1/completions", json=body)
    assert response.status_code == 400, response.text
    assert names in response.json()["error"]["message"]
