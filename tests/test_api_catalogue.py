"""Models, dictionaries, features and presets over HTTP."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from typer.testing import CliRunner

from server.cli import app

BODY = {
    "title": "Foggy",
    "description": "Wraps everything in fog.",
    "edits": [{"feature": "fog", "op": "add", "strength": 0.5}],
    "norm": "keep",
}
NEURONPEDIA = {
    "modelId": "tiny",
    "features": [
        {"modelId": "tiny", "layer": "1-res-jb", "index": 5, "strength": 3},
        {"model": "tiny", "source": "1-res-jb", "index": "3", "strength": -2.5},
    ],
    "temperature": 0.5,
    "strength_multiplier": 2,
    "steer_method": "SIMPLE_ADDITIVE",
}
GOODFIRE = {
    "name": "fog controller",
    "interventions": [
        {
            "mode": "nudge",
            "features": {"features": [{"uuid": "u", "label": "fog", "index_in_sae": 5}]},
            "value": 0.4,
        },
        {
            "mode": "pin",
            "features": {"features": [{"index_in_sae": 3, "max_activation_strength": 8.0}]},
            "value": 0.5,
        },
        {"mode": "mul", "features": {"features": [{"index_in_sae": 9}]}, "value": 0},
    ],
    "scopes": [],
}


def get(live, path, **params):
    response = live.http.get(path, params=params)
    assert response.status_code == 200, response.text
    return response.json()


def put(live, name, body):
    return live.http.put(f"/v1/presets/{name}", json=body)


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
        "output_score": 0.75,
        "promoted": [" bridge", " gate"],
        "band": [0.5, 3.0],
        "recommended": {"op": "clamp", "strength": 1.0},
    }
    assert get(live, "/v1/features", q="nothing like it")["total"] == 0


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


class TestPresets:
    def test_a_saved_preset_is_read_back_used_and_deleted(self, live):
        saved = put(live, "foggy", BODY)
        assert saved.status_code == 200, saved.text
        assert saved.json()["builtin"] is False
        assert get(live, "/v1/presets/foggy") == saved.json()
        assert saved.json() in get(live, "/v1/presets")["data"]
        reply = live.chat(model="tiny@foggy")
        assert reply["steering"]["applied"][0]["op"] == "add"
        assert reply["steering"]["receipt"]["norm"] == "keep"
        assert live.http.delete("/v1/presets/foggy").json()["deleted"] is True
        assert live.http.get("/v1/presets/foggy").status_code == 404
        gone = live.http.post("/v1/chat/completions", json=live.body(model="tiny@foggy"))
        assert gone.status_code == 404

    def test_presets_outlive_the_process_and_are_the_models_own(self, live, tmp_path):
        from server.presets import Presets
        from server.schemas.steering import PresetBody

        path = tmp_path / "deep" / "presets.json"
        mine = Presets("tiny", [], path)
        mine.put("kept", PresetBody(**BODY))
        assert Presets("tiny", [], path).get("kept").body == PresetBody(**BODY)
        assert Presets("other", [], path).all() == []
        Presets("other", [], path).put("kept", PresetBody(**{**BODY, "title": "Other"}))
        mine.put("second", PresetBody(**BODY))
        assert Presets("other", [], path).get("kept").body.title == "Other"
        assert [p.name for p in Presets("tiny", [], path).all()] == ["kept", "second"]
        assert [file.name for file in path.parent.iterdir()] == ["presets.json"]

    def test_a_damaged_file_is_told_and_left_as_it_is(self, tmp_path, caplog):
        """Only who would write over it is refused: the model is served."""
        from server.errors import BadRequest
        from server.presets import Presets
        from server.schemas.steering import PresetBody

        path = tmp_path / "presets.json"
        for text in ("{", "", "[]", '{"tiny": 3}', "[" * 100_000):
            path.write_text(text)
            caplog.clear()
            mine = Presets("tiny", [], path)
            assert mine.all() == []
            assert "presets.json cannot be read" in caplog.text
            with pytest.raises(BadRequest, match=r"presets\.json.*repair it"):
                mine.put("new", PresetBody(**BODY))
            assert path.read_text() == text

    def test_an_entry_that_cannot_be_read_is_left_out_and_kept(self, tmp_path, caplog):
        """It may be another model's, or a newer version's."""
        from server.presets import Presets
        from server.schemas.steering import PresetBody

        path = tmp_path / "presets.json"
        bad = {"b": {**BODY, "of a later version": 1}}
        path.write_text(json.dumps({"tiny": {"a": BODY, **bad}, "other": bad}))
        mine = Presets("tiny", [], path)
        assert [preset.name for preset in mine.all()] == ["a"]
        assert caplog.text.count("preset 'b' of tiny is left out") == 1
        mine.put("c", PresetBody(**BODY))
        mine.delete("a")
        stored = json.loads(path.read_text())
        assert (set(stored["tiny"]), stored["tiny"]["b"]) == ({"b", "c"}, bad["b"])
        assert stored["other"] == bad

    def test_servers_on_one_file_lose_nothing_and_list_what_another_saved(self, tmp_path):
        from server.presets import Presets
        from server.schemas.steering import PresetBody

        servers = [Presets("tiny", [], tmp_path / "presets.json") for _ in range(2)]

        def save(who):
            for i in range(15):
                servers[who].put(f"{who}-{i}", PresetBody(**BODY))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(save, range(2)))
        assert [len(server.all()) for server in servers] == [30, 30]
        servers[0].delete("1-3")
        assert not servers[1].has("1-3")

    def test_a_write_that_fails_keeps_the_old_file(self, tmp_path, monkeypatch):
        from server import presets, presets_file
        from server.errors import SteerdeckError
        from server.schemas.steering import PresetBody

        path = tmp_path / "presets.json"
        mine = presets.Presets("tiny", [], path)
        mine.put("kept", PresetBody(**BODY))
        before = path.read_text()

        def full(_):
            raise OSError("no space left")

        monkeypatch.setattr(presets_file.os, "fsync", full)
        with pytest.raises(SteerdeckError, match=r"no space left.*nothing was changed"):
            mine.put("lost", PresetBody(**BODY))
        assert path.read_text() == before
        assert [p.name for p in mine.all()] == ["kept"]
        assert [file.name for file in tmp_path.iterdir()] == ["presets.json"]

    @pytest.mark.parametrize(
        ("name", "body", "names"),
        [
            ("loud", BODY, "cannot be changed"),
            ("x y", BODY, "name"),
            ("new", {**BODY, "edits": []}, "edits"),
            ("new", {**BODY, "edit": []}, "'edit'"),
            ("new", {**BODY, "edits": [{"feature": 99, "strength": 1}]}, "0..63"),
            ("new", {**BODY, "edits": [{"feature": 7, "strength": 1}]}, "maximum"),
            ("new", {**BODY, "title": "\ud800"}, "half a character"),
        ],
    )
    def test_a_preset_that_could_not_be_used_is_not_saved(self, live, name, body, names):
        response = live.http.put(
            f"/v1/presets/{name}",
            content=json.dumps(body),
            headers={"content-type": "application/json"},
        )
        assert response.status_code in (400, 404)
        assert names in response.json()["error"]["message"]
        assert live.http.get("/v1/presets/new").status_code == 404

    def test_who_reads_presets_waits_for_no_disk(self, tmp_path, monkeypatch):
        """The routes do so on the event loop."""
        from server import presets, presets_file
        from server.schemas.steering import PresetBody

        store = presets.Presets("tiny", [], tmp_path / "presets.json")
        body = PresetBody(edits=[{"feature": 3, "op": "ablate"}])
        store.put("one", body)
        read, writing = threading.Event(), threading.Event()
        slow = presets_file.replace_file

        def waiting(*args):
            writing.set()
            assert read.wait(10), "nobody could read meanwhile"
            slow(*args)

        monkeypatch.setattr(presets_file, "replace_file", waiting)
        with ThreadPoolExecutor(1) as pool:
            written = pool.submit(store.put, "two", body)
            assert writing.wait(10)
            seen = [preset.name for preset in store.all()]
            assert store.get("one").body == body
            assert (store.has("one"), store.has("two")) == (True, False)
            read.set()
            written.result(10)
        assert seen == ["one"]
        assert store.has("two")

    def test_built_in_presets_stay(self, live):
        response = live.http.delete("/v1/presets/loud")
        assert response.status_code == 400
        assert "cannot be deleted" in response.json()["error"]["message"]

    def test_broken_built_in_entries_are_left_out(self, tmp_path, caplog):
        from server.presets import read_builtin

        path = tmp_path / "presets.json"
        good = {"name": "good", **BODY}
        path.write_text(json.dumps([good, {"name": "bad", "edits": "x"}, {"no": "name"}, 3]))
        assert [preset.name for preset in read_builtin(path)] == ["good"]
        assert caplog.text.count("left out") == 3
        path.write_text("{")
        assert read_builtin(path) == []

    def test_a_preset_as_it_is_exported_is_one_beside_a_dictionary(self, live, tmp_path, caplog):
        from server.presets import read_builtin

        path = tmp_path / "presets.json"
        runner, ask = CliRunner(), ["presets", "export", "loud", str(path), "--url", live.url]
        assert runner.invoke(app, ask).exit_code == 0
        (read,) = read_builtin(path)
        assert (read.name, read.body) == ("loud", live.service.deck.presets.get("loud").body)
        assert not caplog.text
        path.write_text(json.dumps({"tiny": {"loud": BODY}}))  # as a data folder has it
        assert read_builtin(path) == []
        assert '[{"name": "…", "title": "…", "edits": […]}]' in caplog.text


class TestImports:
    """Other people's steering JSON, as their servers and clients send it."""

    def saved(self, live, body):
        response = put(live, "imported", {k: v for k, v in body.items() if k != "temperature"})
        assert response.status_code == 200, response.text
        live.http.delete("/v1/presets/imported")
        return [(e["feature"], e["op"], e["strength"], e["unit"]) for e in response.json()["edits"]]

    def test_neuronpedias_strength_is_raw_and_multiplied(self, live):
        assert self.saved(live, NEURONPEDIA) == [
            ("tiny/5", "add", 6.0, "raw"),
            ("tiny/3", "add", -5.0, "raw"),
        ]

    def test_goodfires_modes_become_ops(self, live):
        assert self.saved(live, {"controller": GOODFIRE}) == self.saved(live, GOODFIRE)
        assert self.saved(live, GOODFIRE) == [
            (5, "add", 0.4, "max"),
            (3, "clamp", 4.0, "raw"),
            (9, "scale", 0.0, "max"),
        ]

    @pytest.mark.parametrize(
        ("base", "over", "names"),
        [
            (NEURONPEDIA, {"steer_method": "ORTHOGONAL_DECOMP"}, "steer_method"),
            (NEURONPEDIA, {"steerMethod": "PROJECTION_CAP"}, "steer_method"),
            (NEURONPEDIA, {"normalize_steering": True}, "normalize_steering"),
            (NEURONPEDIA, {"vectors": [{}]}, "vectors"),
            (NEURONPEDIA, {"features": [{"index": 3, "layer": "9-res", "strength": 1}]}, "9-res"),
            (NEURONPEDIA, {"features": [{"strength": 1}]}, "index"),
            (NEURONPEDIA, {"features": [{"index": 3}]}, "strength"),
            (NEURONPEDIA, {"features": [{"index": "²", "strength": 1}]}, "index"),
            (NEURONPEDIA, {"features": [{"index": "9" * 5000, "strength": 1}]}, "index"),
            (NEURONPEDIA, {"features": [{"index": 3, "source": "9" * 5000}]}, "strength"),
            (NEURONPEDIA, {"features": [{"index": 3, "layer": "9" * 5000, "strength": 1}]}, "999"),
            (NEURONPEDIA, {"features": []}, "features"),
            (NEURONPEDIA, {"features": [{"index": 64, "strength": 1}]}, "0..63"),
            (GOODFIRE, {"scopes": [{}]}, "scopes"),
            (GOODFIRE, {"interventions": [{"mode": "flip"}]}, "mode"),
            (GOODFIRE, {"interventions": [{"mode": []}]}, "mode"),
            (GOODFIRE, {"interventions": [{"mode": "pin", "value": 10**400}]}, "value"),
            (GOODFIRE, {"interventions": [{"mode": "pin", "value": "x"}]}, "value"),
            (GOODFIRE, {"interventions": [{"mode": "pin", "value": 1}]}, "features"),
            (GOODFIRE, {"min_nudge_entropy": 0.1}, "min_nudge_entropy"),
        ],
    )
    def test_what_cannot_be_carried_over_is_refused_by_name(self, live, base, over, names):
        response = put(live, "imported", {**base, **over})
        assert response.status_code in (400, 404), response.text
        assert names in response.json()["error"]["message"]
