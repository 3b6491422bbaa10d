"""Models, dictionaries, features and what this server can do, over HTTP."""

from __future__ import annotations

import pytest
from api_talk import get


def test_the_model_and_every_preset_are_models(live):
    found = get(live, "/v1/models")
    assert found["object"] == "list"
    assert found["data"][0] == {
        "id": "tiny",
        "object": "model",
        "created": found["data"][0]["created"],
        "owned_by": "steerdeck",
        "max_model_len": 512,
    }
    loud = next(m for m in found["data"] if m["id"] == "tiny@loud")
    assert loud["steering_preset"]["edits"][0]["feature"] == "golden-gate-bridge"
    assert "preset" not in loud  # Open WebUI hides models that have it
    assert get(live, "/v1/models/tiny@loud") == loud


def test_a_dictionary_says_where_it_sits(live):
    (found,) = get(live, "/v1/dictionaries")["data"]
    assert found["id"] == "tiny"
    assert found["site"] == {"layer": 1, "hook": "resid_post"}
    assert (found["d_in"], found["d_sae"], found["cards"]) == (32, 64, 3)
    assert found["reads_exactly"] is True


def test_capabilities_tell_the_limits(live):
    told = get(live, "/v1/capabilities")
    assert (told["thinking"], told["guard"]) == ([], ["warn", "back_off", "stop"])
    assert told["limits"] == {
        "context_tokens": 512,
        "edits": 16,
        "conditions": 8,
        "rows": 4,
        "waiting": 3,
        "variants": 16,
        "vectors": 16,
    }
    assert told["trace"] == ["activations", "kl", "top"]
    assert set(told["ops"]) == {"add", "clamp", "scale", "ablate", "at_least", "at_most"}
    assert told["defaults"]["max_completion_tokens"] == 24
    assert told["compilation"] == "off"


def test_search_finds_by_label_slug_and_promoted_token(live):
    for q in ("golden", "Gate bri", "golden-gate", "bridge"):
        found = get(live, "/v1/features", q=q)
        assert [f["ref"] for f in found["data"]] == ["tiny/3"], q
    assert found["data"][0] == {
        "object": "feature",
        "id": 3,
        "ref": "tiny/3",
        "dictionary": "tiny",
        "label": "Golden Gate Bridge",
        "slug": "golden-gate-bridge",
        "density": 0.01,
        "maximum": 2.5,
        "steerability": 2.5,
        "output_score": 0.75,
        "promoted": [" bridge", " gate"],
        "band": [0.5, 3.0],
        "recommended": {"op": "clamp", "strength": 1.0},
    }
    assert found["words"] == "all"
    assert get(live, "/v1/features", q="nothing like it")["total"] == 0


def test_where_no_feature_has_all_words_those_with_some_are_listed_and_said_to_be(live):
    found = get(live, "/v1/features", q="golden fog")
    assert sorted(f["ref"] for f in found["data"]) == ["tiny/3", "tiny/5"]
    assert (found["words"], found["total"], found["has_more"]) == ("any", 2, False)
    page = get(live, "/v1/features", q="golden fog", sort="density", limit=1, offset=1)
    assert [f["ref"] for f in page["data"]] == ["tiny/3"]
    assert page["words"] == "any"


def test_search_says_when_it_stops_counting(live, monkeypatch):
    from dictionaries import cards_search
    from server.routes import features

    assert get(live, "/v1/features", q="g")["total_exact"] is True
    monkeypatch.setattr(cards_search, "COUNTED", 1)
    monkeypatch.setattr(features, "COUNTED", 1)
    found = get(live, "/v1/features", q="g")
    assert (found["total"], found["total_exact"], len(found["data"])) == (1, False, 1)
    assert get(live, "/v1/features")["total_exact"] is True


def test_search_sorts_and_pages(live):
    by_id = get(live, "/v1/features", sort="feature")
    assert [f["id"] for f in by_id["data"]] == [3, 5, 7]
    down = get(live, "/v1/features", sort="feature", order="desc", limit=2)
    assert ([f["id"] for f in down["data"]], down["has_more"], down["total"]) == ([7, 5], True, 3)
    rest = get(live, "/v1/features", sort="feature", order="desc", limit=2, offset=2)
    assert ([f["id"] for f in rest["data"]], rest["has_more"]) == ([3], False)


@pytest.mark.parametrize("ref", ["3", "tiny/3", "golden-gate-bridge", "tiny/golden-gate-bridge"])
def test_one_feature_has_everything_known_of_it(live, ref):
    found = get(live, f"/v1/features/{ref}")
    assert found["ref"] == "tiny/3"
    assert found["histogram"] == {"edges": [0.0, 1.0, 2.5], "counts": [3, 1]}
    assert found["examples"] == [
        {"tokens": [" the", " bridge"], "activations": [0.0, 2.5], "interval": [2.0, 2.5]}
    ]
    assert found["suppressed"] == [{"token": " cat", "logit": -2.0}]
    assert found["promoted_logits"][0] == {"token": " bridge", "logit": 3.0}
    assert found["labelled_by"] == "concept"


def test_a_feature_without_a_card_is_known_by_its_number(live):
    found = get(live, "/v1/features/60")
    assert (found["ref"], found["label"], found["maximum"]) == ("tiny/60", None, None)
    assert found["examples"] == []


def test_neighbours_come_nearest_first(live):
    near = get(live, "/v1/features/fog/neighbors", n=4)["data"]
    cosines = [f["cosine"] for f in near]
    assert len(near) == 4
    assert cosines == sorted(cosines, reverse=True)
    assert "tiny/5" not in [f["ref"] for f in near]
    expected = live.service.deck.dictionaries["tiny"].neighbours(5, 4)
    assert [(f["id"], f["cosine"]) for f in near] == expected
    stored = get(live, "/v1/features/3/neighbors", n=2)["data"]
    assert [(f["id"], f["cosine"]) for f in stored] == [(7, 0.5), (5, 0.25)], "the card's own"
    assert len(get(live, "/v1/features/3/neighbors", n=3)["data"]) == 3


def test_a_decoder_too_large_to_wait_for_is_not_read_for_neighbours(live, monkeypatch):
    from server.routes import features

    monkeypatch.setattr(features, "SCANNED", 0)
    enough = get(live, "/v1/features/3/neighbors", n=2)
    assert ([f["id"] for f in enough["data"]], "reason" in enough) == ([7, 5], False)
    for ref, known in (("3", 2), ("fog", 0)):
        fewer = get(live, f"/v1/features/{ref}/neighbors", n=3)
        assert len(fewer["data"]) == known
        assert f"{known} are known" in fewer["reason"]
        assert "make describe" in fewer["reason"]


def test_without_cards_features_are_listed_by_number(live, serve):
    from dataclasses import replace

    bare = serve(replace(live.service.deck, cards={}))
    found = get(bare, "/v1/features", limit=2, offset=62)
    assert ([f["id"] for f in found["data"]], found["total"]) == ([62, 63], 64)
    assert get(bare, "/v1/features", q="17")["data"][0]["ref"] == "tiny/17"
    assert get(bare, "/v1/features", q="64")["total"] == 0
    assert get(bare, "/v1/features", q="fog")["total"] == 0
    refused = bare.http.post(
        "/v1/chat/completions", json=bare.body(steering={"edits": [{"feature": 3, "strength": 1}]})
    )
    assert '"unit\\": \\"raw\\"' in refused.text


@pytest.fixture
def two(make_dictionary):
    from server.deck import Deck

    class Presets:
        def all(self):
            return []

    first, second = make_dictionary("one"), make_dictionary("two", seed=4)
    return Deck(
        engine=None,
        tokenizer=None,
        model="m",
        revision="r",
        dictionaries={"one": first, "two": second},
        cards={},
        presets=Presets(),
    )


class TestSeveralDictionaries:
    def test_a_bare_number_is_refused_and_a_full_name_is_not(self, two):
        from server.errors import BadRequest

        with pytest.raises(BadRequest, match="send dictionary/12"):
            two.find(12)
        with pytest.raises(BadRequest, match="one, two"):
            two.find("12")
        assert two.find("two/12").ref == "two/12"

    def test_the_first_is_the_default_of_a_search(self, two):
        assert two.dictionary(None).info.id == "one"
        assert two.dictionary("two").info.id == "two"

    def test_a_slug_of_two_features_is_refused(self, two, tmp_path):
        from dataclasses import replace

        from dictionaries.cards import Card, Cards
        from server.errors import BadRequest

        cards = {}
        for name in ("one", "two"):
            cards[name] = Cards.create(tmp_path / name)
            cards[name].put([Card(1, "x", slug="same")])
        both = replace(two, cards=cards)
        with pytest.raises(BadRequest, match="one/same, two/same"):
            both.find("same")
        assert both.find("two/same").ref == "two/1"
        for opened in cards.values():
            opened.close()


def test_a_dictionary_that_cannot_be_read_only_adds(live, make_dictionary):
    from copy import copy
    from dataclasses import replace

    from server.errors import Unsteerable
    from server.schemas.steering import WireSteering
    from server.steering import resolve

    blind = copy(make_dictionary("tiny"))
    blind.info = replace(blind.info, reads_exactly=False, why_not="its thresholds were not kept.")
    deck = replace(live.service.deck, dictionaries={"tiny": blind})
    for op in ("clamp", "scale", "at_least", "at_most", "ablate"):
        asked = WireSteering(edits=[{"feature": "fog", "op": op, "strength": 1.0}])
        with pytest.raises(Unsteerable, match="tiny/5: its thresholds were not kept"):
            resolve(deck, None, asked)
    asked = WireSteering(edits=[{"feature": "fog", "op": "add", "strength": 1.0}])
    assert resolve(deck, None, asked).steering.edits[0].strength == 1.5
