"""Neuronpedia's presets: on the dictionary that they name, and as far as there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
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
