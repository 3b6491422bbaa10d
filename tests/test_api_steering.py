"""Steering over HTTP: what it does to a reply, and the receipt that tells and replays it."""

from __future__ import annotations

import pytest
from api_talk import FOG, LONG, text_of


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
        {"temperature": 1.0, "repetition_penalty": 1.4},
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
