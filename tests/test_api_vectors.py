"""Vectors that come with a request: what they do over HTTP, and what a receipt tells of them."""

from __future__ import annotations

import base64
import hashlib

import api_gate
import pytest
from api_gate import LONG, receipt_of, text_of
from sent_vectors import CALM, SITE, STORM, adding, sent
from test_api_live import changed_live
from test_directions import written

from dictionaries.formats import open_dictionary

gate, narrow, open_again = api_gate.gate, api_gate.narrow, api_gate.open_again  # fixtures
SAMPLED = {"ignore_eos": True, "max_tokens": 10, "seed": 5, "temperature": 1.0}


def of(numbers=CALM, *edits, **more):
    """A steering that brings the vector "calm"."""
    return {"vectors": {"calm": sent(numbers)}, "edits": list(edits) or [adding()], **more}


def said(reply):
    return reply["choices"][0]["message"]["content"]


def receipt(reply):
    return reply["steering"]["receipt"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, make_model, tokenizer, serve):
    """The tiny model and both vectors as a folder of directions."""
    from torch import stack

    from server.loading import load
    from server.settings import Settings

    folder = tmp_path_factory.mktemp("served")
    make_model().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    own = written(folder / "own", stack([CALM, STORM]))
    assert open_dictionary(own).info.site.layer == SITE["layer"]
    given = {"model": str(folder / "model"), "dictionary": str(own)}
    return serve(load(Settings(data_dir=folder, **given, max_rows=2), lambda *_: None))


@pytest.mark.parametrize("norm", [None, "keep"])
def test_a_vector_steers_as_the_same_direction_of_a_dictionary(loaded, norm):
    brought = loaded.chat(**SAMPLED, logprobs=True, steering=of(norm=norm))
    direction = {**adding(), "feature": "own/0"}
    known = loaded.chat(**SAMPLED, logprobs=True, steering={"edits": [direction], "norm": norm})
    assert brought["choices"] == known["choices"]
    assert brought["choices"] != loaded.chat(**SAMPLED, logprobs=True)["choices"]


def test_the_receipt_names_what_was_added_by_its_hash_and_replays_it(live):
    steering = of(CALM, adding(), {"feature": "fog", "strength": 2.0})
    reply = live.chat(**SAMPLED, steering=steering)
    file = base64.b64decode(steering["vectors"]["calm"]["data"])
    told = receipt(reply)
    assert told["vectors"] == {"calm": {"sha256": hashlib.sha256(file).hexdigest(), "site": SITE}}
    assert [one["id"] for one in told["dictionaries"]] == ["tiny"]
    assert told["replay"]["steering"]["vectors"] == steering["vectors"]
    assert reply["steering"]["applied"][0] == {**adding(), "where": "all", "label": "calm"}
    assert told["tokens_edited"] > 0
    again = live.chat(**told["replay"])
    assert said(again) == said(reply)
    assert receipt(again) == told
    assert "vectors" not in receipt(live.chat(**SAMPLED))


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("hook", ["resid_pre", "resid_post"])
def test_each_type_of_floats_at_each_site_is_told_as_it_came(live, kind, hook):
    import torch

    numbers = CALM.to(getattr(torch, kind))
    reply = live.chat(
        **SAMPLED, steering={"vectors": {"calm": sent(numbers, 2, hook)}, "edits": [adding()]}
    )
    wide = {"vectors": {"calm": sent(numbers.float(), 2, hook)}, "edits": [adding()]}
    assert said(live.chat(**SAMPLED, steering=wide)) == said(reply)
    assert receipt(reply)["vectors"]["calm"]["site"] == {"layer": 2, "hook": hook}


def test_all_else_that_an_edit_may_have_holds_of_a_vector(live):
    more = {
        "where": "generated",
        "when": {"feature": 9, "value": 0.2, "unit": "raw", "latch": True},
        "window": {"first": 1, "last": 8},
        "decay": 4.0,
        "abort": {"feature": 9, "value": 1e5, "unit": "raw"},
    }
    reply = live.chat(**SAMPLED, steering=of(CALM, adding(**more), trace=["kl", "activations"]))
    [told] = receipt(reply)["edits"]
    assert (told["window"], told["decay"]) == ({"first": 1, "last": 8}, 4.0)
    assert told["when"]["feature"] == "tiny/9"
    assert [line["features"] for line in reply["steering"]["activations"]] == [[]] * 10
    again = live.chat(**receipt(reply)["replay"])
    assert (said(again), receipt(again)) == (said(reply), receipt(reply))


def test_a_timeline_may_name_it(live):
    later = {"timeline": [{"at": 4, "edits": [adding(strength=8.0)]}], "edits": []}
    reply = live.chat(**SAMPLED, steering={**of(), **later})
    plain = live.chat(**SAMPLED)
    assert said(reply) != said(plain)
    assert [entry["at"] for entry in receipt(reply)["timeline"]] == [0, 4]
    again = live.chat(**receipt(reply)["replay"])
    assert (said(again), receipt(again)) == (said(reply), receipt(reply))


def test_a_preset_and_a_vector_act_together(live):
    both = live.chat(**SAMPLED, model="tiny@loud", steering=of())
    alone = live.chat(**SAMPLED, model="tiny@loud")
    assert said(both) != said(alone)
    assert [edit["label"] for edit in both["steering"]["applied"]][-1] == "calm"


def test_completions_take_it(live):
    body = {"prompt": "The fog", **SAMPLED}
    plain, steered = (
        live.http.post("/v1/completions", json={**body, "steering": way}).json()
        for way in ({}, of())
    )
    assert plain["choices"] != steered["choices"]


def test_variants_share_the_vectors_of_the_request_and_may_bring_their_own(live):
    variants = [
        {"edits": [adding()]},
        {"edits": [adding(strength=-2.5), adding("storm")], "vectors": {"storm": sent(STORM)}},
    ]
    body = {**live.body(**SAMPLED), "variants": variants}
    common = {"steering": {"vectors": {"calm": sent(CALM)}}}
    response = live.http.post("/v1/compare", json={**body, **common})
    assert response.status_code == 200, response.text
    found = response.json()["variants"]
    assert [one["label"] for one in found] == [
        "unsteered", "calm add 2.5", "calm add -2.5, storm add 2.5",
    ]  # fmt: skip
    every = {"calm": sent(CALM), "storm": sent(STORM)}
    for one, way in zip(found, ({}, *variants), strict=True):
        named = {edit["feature"].removeprefix("vector:") for edit in way.get("edits", [])}
        own = {"vectors": {name: every[name] for name in named}}
        alone = live.chat(**SAMPLED, steering={**way, **own})
        assert one["message"] == alone["choices"][0]["message"]
        assert receipt(one) == receipt(alone)
    assert len({one["message"]["content"] for one in found}) == 3


def test_variants_own_vectors_of_one_name_are_each_their_own(live):
    """Also where all of them edit the same prompt, which is then computed for each."""
    ways = [of(one, adding(strength=8.0)) for one in (CALM, STORM, CALM)]
    body = {**live.body(**SAMPLED), "variants": ways}
    found = live.http.post("/v1/compare", json=body).json()["variants"][1:]
    alone = [said(live.chat(**SAMPLED, steering=way)) for way in ways]
    assert [one["message"]["content"] for one in found] == alone
    assert alone[0] != alone[1]


def test_a_live_change_names_what_came_before_or_brings_its_own(narrow, gate):
    """And its receipt, which holds both, replays it."""
    change = {
        "edits": [adding(strength=-4.0), adding("storm", 4.0)],
        "vectors": {"storm": sent(STORM)},
    }
    events, told = changed_live(narrow, gate, change, steering=of())
    assert told.status_code == 200, told.text
    assert [edit["label"] for edit in told.json()["applied"]] == ["calm", "storm"]
    whole = receipt_of(events)
    assert set(whole["vectors"]) == set(whole["replay"]["steering"]["vectors"]) == {"calm", "storm"}
    again = narrow.stream(**whole["replay"])
    assert text_of(again) == text_of(events)
    assert receipt_of(again) == whole
    assert text_of(narrow.stream(**LONG, steering=of())) != text_of(events)


def test_a_second_live_change_knows_the_firsts_vector(narrow, gate):
    gate.allow(4)
    with narrow.open(**LONG, steering={"id": "twice"}) as events:
        arrived = iter(events)
        seen = [narrow.parsed(next(arrived)) for _ in range(3)]
        path = "/v1/generations/twice/steering"
        first = narrow.http.patch(path, json=of())
        again = narrow.http.patch(path, json={"edits": [adding(strength=1.0)]})
        other = narrow.http.patch(path, json=of(STORM))
        unknown = narrow.http.patch(path, json={"edits": [adding("storm")]})
        gate.allow(None)
        seen += [narrow.parsed(event) for event in arrived]
    assert (first.status_code, again.status_code) == (200, 200), (first.text, again.text)
    error = other.json()["error"]
    assert (other.status_code, error["param"]) == (400, "vectors.calm")
    assert "send this one under a new name" in error["message"]
    assert unknown.status_code == 400
    assert "send it in `vectors`, which names calm" in unknown.json()["error"]["message"]
    assert receipt_of(seen)["timeline"][-1]["edits"][0]["strength"] == 1.0


def test_a_prompt_is_not_taken_from_another_vector_of_the_name(make_deck, serve):
    caching = serve(make_deck(max_rows=2, prefix_cache=2**22))
    told = "Tell me of the fog that comes in over the bay in the morning, and of the ships."

    def cached(numbers):
        usage = caching.chat(told, **SAMPLED, steering=of(numbers))["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    assert cached(CALM) == 0
    assert cached(STORM) < 32, "only what the template begins with"
    assert cached(CALM) > 64


def test_capabilities_say_how_many_may_come(live):
    told = live.http.get("/v1/capabilities").json()
    assert told["limits"]["vectors"] == 16
    assert told["vectors"] == {
        "hooks": ["resid_pre", "resid_post"],
        "dtypes": ["F32", "F16", "BF16"],
    }
