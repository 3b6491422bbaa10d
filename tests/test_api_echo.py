"""POST /v1/completions with `echo`: a text scored, as evaluation harnesses ask for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from api_talk import FOG
from conditions_by_hand import ByHand
from tiny import tiny_model

TEXT = "The bridge is red, and the fog"
IDS = list(range(40, 60))


def ask(live: Any, prompt: Any, **body: Any) -> Any:
    body = {"prompt": prompt, "temperature": 0, "echo": True, "logprobs": 1} | body
    response = live.http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def harness(live: Any, pairs: list[tuple[list[int], list[int]]], **body: Any) -> Any:
    """What lm-evaluation-harness sends for (context, continuation) pairs, and makes of the answer:
    each continuation's log-likelihood, and whether it is the greedy one.
    """
    prompts = [[*context, *rest] for context, rest in pairs]
    reply = ask(live, prompts, model="tiny", max_tokens=1, seed=1234, **body)
    found = []
    for choice, (context, _) in zip(
        sorted(reply["choices"], key=lambda one: one["index"]), pairs, strict=True
    ):
        told = choice["logprobs"]
        own = told["token_logprobs"][len(context) : -1]
        top = told["top_logprobs"][len(context) : -1]
        greedy = all(a == max(b.values()) for a, b in zip(own, top, strict=True))
        found.append((sum(own), greedy))
    return found


def expected(ids: list[int], request: Any = None, dictionary: Any = None) -> Any:
    """[tokens, vocab] log probabilities by one plain pass, edited by hand for a request."""
    model = tiny_model()
    if request is not None:
        ByHand(model, request, dictionary)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)


class TestAsAHarnessAsks:
    @pytest.mark.parametrize("steering", [None, FOG])
    def test_a_likelihood_is_the_sum_of_a_plain_pass(
        self, live, steering, dictionary, ask, steer
    ) -> None:
        """Of a list of token ids; the steered one by the formula, written out."""
        pairs = [(IDS[:3], IDS[3:9]), (IDS[:11], IDS[11:]), (IDS[:1], IDS[1:2])]
        scored = harness(live, pairs, steering=steering)
        for (context, rest), (total, _) in zip(pairs, scored, strict=True):
            ids, request = [*context, *rest], None
            if steering:
                flags = (False, *(True,) * (len(ids) - 1))
                own = steer((5, "clamp", 4.0 * 1.5))  # fog's maximum
                request = replace(ask(steering=own), prompt=tuple(ids), steerable=flags)
            logprobs = expected(ids, request, dictionary)
            wanted = sum(logprobs[i - 1, ids[i]].item() for i in range(len(context), len(ids)))
            assert total == pytest.approx(wanted, abs=1e-3)

    def test_what_the_model_would_say_is_greedy_and_else_is_not(self, live) -> None:
        ids = list(IDS[:5])
        for _ in range(4):
            ids.append(int(expected(ids)[-1].argmax()))
        other = [*ids[:-1], (ids[-1] + 1) % 200]
        pairs = [(ids[:5], ids[5:]), (other[:5], other[5:])]
        assert [greedy for _, greedy in harness(live, pairs)] == [True, False]


class TestEcho:
    def test_the_prompt_comes_first_and_its_first_token_has_no_number(self, live) -> None:
        (whole,) = ask(live, TEXT, logprobs=2, max_tokens=4, ignore_eos=True)["choices"]
        bare = ask(live, TEXT, logprobs=2, max_tokens=4, ignore_eos=True, echo=False)
        (usual,) = bare["choices"]
        assert whole["text"] == TEXT + usual["text"]
        told, after = whole["logprobs"], usual["logprobs"]
        count = len(TEXT)  # a token is a byte
        assert told["tokens"] == [*TEXT, *after["tokens"]]
        assert told["text_offset"] == [*range(count), *(count + at for at in after["text_offset"])]
        for name in ("token_logprobs", "top_logprobs"):
            assert told[name][0] is None
            assert None not in told[name][1:]
            assert len(told[name]) == count + 4
        assert told["token_logprobs"][count:] == pytest.approx(after["token_logprobs"], abs=1e-4)
        for own, top in zip(told["token_logprobs"][1:], told["top_logprobs"][1:], strict=True):
            assert own in top.values()
            assert 2 <= len(top) <= 3

    def test_nothing_more_may_be_asked_for(self, live) -> None:
        some, none = (ask(live, TEXT, max_tokens=tokens) for tokens in (3, 0))
        (choice,) = none["choices"]
        assert (choice["text"], choice["finish_reason"]) == (TEXT, "length")
        assert none["usage"]["completion_tokens"] == 0
        scores = some["choices"][0]["logprobs"]["token_logprobs"]
        assert choice["logprobs"]["token_logprobs"] == scores[: len(TEXT)]
        again = ask(live, TEXT, **none["steering"]["receipt"]["replay"])
        assert again["choices"] == none["choices"]

    def test_without_logprobs_it_is_the_text(self, live) -> None:
        (choice,) = ask(live, TEXT, logprobs=None, max_tokens=0)["choices"]
        assert (choice["text"], choice["logprobs"]) == (TEXT, None)

    def test_each_reply_follows_its_own_prompt(self, live) -> None:
        choices = ask(live, ["one", "other"], n=2, max_tokens=2, temperature=1.0)["choices"]
        begins = [choice["text"][:3] for choice in choices]
        assert begins == ["one", "one", "oth", "oth"]
        lengths = [len(choice["logprobs"]["tokens"]) for choice in choices]
        assert lengths == [5, 5, 7, 7]

    def test_token_ids_are_said_back_as_a_reply_is(self, live, tokenizer) -> None:
        """Special ones have a name among the tokens and no text; a text is said as it was sent."""
        sent = "a<|role|>b"
        ids = tokenizer(sent)["input_ids"]
        by_ids, by_text = (ask(live, one, max_tokens=0)["choices"][0] for one in (ids, sent))
        assert (by_ids["text"], by_text["text"]) == ("ab", sent)
        assert by_ids["logprobs"]["text_offset"] == [0, 1, 1]
        assert by_text["logprobs"]["text_offset"] == [0, 1, 9]
        for name in ("tokens", "token_logprobs", "top_logprobs"):
            assert by_ids["logprobs"][name] == by_text["logprobs"][name]
        assert by_ids["logprobs"]["tokens"] == ["a", "<|role|>", "b"]
        (bare,) = ask(live, ids, max_tokens=0, logprobs=None)["choices"]
        assert bare["text"] == "ab"

    def test_edits_of_generated_tokens_leave_a_scored_text_alone(self, live) -> None:
        fog = FOG["edits"][0]
        scores = {}
        for where in ("prompt", "all", "generated", None):
            edits = [{**fog, "where": where}] if where else []
            reply = ask(live, TEXT, max_tokens=0, steering={"edits": edits})
            scores[where] = reply["choices"][0]["logprobs"]["token_logprobs"]
            edited = len(TEXT) - 1 if where in ("prompt", "all") else 0
            assert reply["steering"]["receipt"]["tokens_edited"] == edited
        assert scores["prompt"] == scores["all"] != scores["generated"] == scores[None]

    def test_a_text_may_fill_the_context_if_nothing_is_to_follow(self, live) -> None:
        context = live.service.deck.engine.capabilities.max_context
        full = "a" * context
        (choice,) = ask(live, full, max_tokens=0)["choices"]
        assert len(choice["logprobs"]["tokens"]) == context
        for prompt, tokens in ((full, 1), (full + "a", 0)):
            body = {"prompt": prompt, "echo": True, "max_tokens": tokens}
            assert live.http.post("/v1/completions", json=body).status_code == 413
