"""Other people's presets: on the dictionary that they name, and as far as there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from api_talk import put
from published import opened

from dictionaries.dictionary import Dictionary
from dictionaries.edits import Norm
from server.errors import BadRequest
from server.imports import read_preset
from server.schemas.steering import PresetBody


def imported(*dictionaries: Dictionary, index: int = 7, **feature: Any) -> PresetBody:
    deck: Any = SimpleNamespace(dictionaries={one.info.id: one for one in dictionaries})
    features = [{"index": index, "strength": 10} | feature]
    return read_preset(deck, {"features": features, "strength_multiplier": 4})


def told(dictionary: Dictionary, **info: Any) -> Dictionary:
    dictionary.info = replace(dictionary.info, **info)
    return dictionary


@pytest.mark.parametrize(
    "name", ["goodfire_llama_8b", "saelens_v6_standard", "dl_autoencoder", "dl_topk", "qwen_scope"]
)
def test_the_residual_moves_as_far_as_there(name: str) -> None:
    """Neuronpedia steers with rows scaled to length 1, but for TopK with those of the file."""
    dictionary = told(opened(name), id="d")
    lengths = dictionary.rows(range(8)).dec.norm(dim=-1)
    unscaled = dictionary.info.architecture == "topk"
    for index, length in enumerate(lengths.tolist()):
        (edit,) = imported(dictionary, index=index, source="d").edits
        moved = edit.strength * length
        assert (edit.op, edit.unit) == ("add", "raw")
        assert moved == pytest.approx(40 * length if unscaled else 40, rel=1e-5)


def test_features_in_units_of_each_token_take_no_fixed_strength(make_dictionary) -> None:
    dictionary = make_dictionary("scaled", normalize="layer_norm")
    assert dictionary.info.norm is Norm.LAYER_NORM
    with pytest.raises(BadRequest, match=r"features\[0\]: scaled .* carried over exactly"):
        imported(dictionary, source="scaled")


REFUSED = [
    ({"source": "9-res-16k"}, "sits at layer 1 resid_post"),
    ({"source": "1-mlp-64"}, "sits at layer 1 resid_post"),
    ({"source": "1-gemmascope-transcoder-16k"}, "sits at layer 1 resid_post"),
    ({"source": "1-gemmascope-res-65k"}, "has 16,384 features"),
    ({"source": "1-res-16k", "modelId": "gpt2-small"}, "was made for google/gemma-2-2b"),
    ({"source": "1-res-16k", "modelId": "gemma-2-27b"}, "was made for google/gemma-2-2b"),
    ({"source": "0" * 5000 + "1-res-16k"}, "sits at layer 1 resid_post"),
]


@pytest.mark.parametrize(("feature", "why"), REFUSED)
def test_another_dictionary_of_the_layer_is_not_taken_for_it(
    feature: dict[str, str], why: str, make_dictionary: Callable[..., Dictionary]
) -> None:
    loaded = told(make_dictionary("ours"), d_sae=16384, model="google/gemma-2-2b")
    with pytest.raises(BadRequest, match=rf"features\[0\]\.source .*: ours {why}"):
        imported(loaded, **feature)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("google/gemma-2-2b", "gemma-2-2b"),
        ("google/gemma-2-2b", "gemma-2-2b-it"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama3.3-70b-it"),
        ("meta-llama/Meta-Llama-3.1-8B", "llama3.1-8b"),
        ("gpt2", "gpt2-small"),
        (None, "gpt2-small"),
    ],
)
def test_a_models_name_is_known_as_others_spell_it(
    model: str | None, said: str, make_dictionary: Callable[..., Dictionary]
) -> None:
    loaded = told(make_dictionary("ours"), d_sae=16384, model=model)
    other = told(make_dictionary("wider"), d_sae=65536, model=model)
    (edit,) = imported(loaded, other, source="1-gemmascope-res-16k", modelId=said).edits
    assert edit.feature == "ours/7"


def test_where_two_may_be_meant_none_is_guessed(make_dictionary) -> None:
    pair = make_dictionary("a"), make_dictionary("b", hook="resid_pre")
    with pytest.raises(BadRequest, match=r"a \(layer 1 resid_post\) may be meant, b \(layer 1 re"):
        imported(*pair, source="1-res-jb")
    assert imported(*pair, source="b").edits[0].feature == "b/7"


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
            (
                NEURONPEDIA,
                {"vectors": [{}]},
                "vectors: they are not read here: of each one, put it",
            ),
            (
                NEURONPEDIA,
                {"features": [{"index": 3, "strength": 1, "steering_vector": [0.1]}]},
                "steering_vector: a vector is not read here: put it into a folder of directions",
            ),
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
