"""Does a dictionary fit? Its features a token and what it rebuilds, on text, against what it says.

The tiny model's residual is random; a dictionary that fits is one made from that residual itself.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dictionaries import fit as fitting
from dictionaries.dictionary import Dictionary
from dictionaries.edits import Norm, delta, frame
from dictionaries.fit import measure
from dictionaries.formats import open_dictionary
from server.engine.sites import decoder_layers
from server.fit import TEXTS, fit
from server.fit import length as fit_length
from server.loading import load
from server.settings import Settings

D_MODEL, D_SAE = 32, 64


def residual(model: Any, tokenizer: Any, layer: int) -> torch.Tensor:
    """Of all texts after a layer, by a hook of our own; without each text's first token."""
    found: list[torch.Tensor] = []
    handle = decoder_layers(model)[layer].register_forward_hook(
        lambda _m, _a, out: found.append(out)
    )
    for text in TEXTS:
        model(input_ids=torch.tensor([tokenizer(text)["input_ids"]]))
    handle.remove()
    return torch.cat([x[0, 1:] for x in found])


@pytest.fixture
def fitted(make_model, make_dictionary, tokenizer) -> Callable[..., Dictionary]:
    """A dictionary at layer 1 whose features are the residual's own axes, both ways: it rebuilds
    all of it. scale: what its inputs are taken for; 1 fits.
    """

    def make(scale: float = 1.0, threshold: float = 0.0, **config: Any) -> Dictionary:
        folder = make_dictionary("fitted", architecture="jumprelu").path
        x = residual(make_model(), tokenizer, 1)
        axes = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh
        both = torch.cat([axes, -axes])
        path = folder / "sae_weights.safetensors"
        tensors = {
            **load_file(path),
            "W_enc": (both.T * scale).contiguous(),
            "W_dec": both.contiguous(),
            "b_enc": torch.zeros(D_SAE),
            "b_dec": x.mean(0),
            "threshold": torch.full((D_SAE,), threshold),
        }
        save_file(tensors, path)
        told = json.loads((folder / "cfg.json").read_text())
        (folder / "cfg.json").write_text(json.dumps(told | config))
        return open_dictionary(folder, id="fitted")

    return make


def test_a_dictionary_of_this_place_fits(fitted, make_model, tokenizer) -> None:
    dictionary = fitted()
    found = fit(make_model(), tokenizer, dictionary, expected=None).fit
    x = residual(make_model(), tokenizer, 1)
    assert found.tokens == len(x)
    assert found.features == D_SAE
    assert found.l0 == pytest.approx((dictionary.encode(x) != 0).sum().item() / len(x))
    assert found.explained == pytest.approx(1.0, abs=1e-3)
    assert (found.expected_l0, found.warning) == (None, None)


def test_one_whose_numbers_do_not_fit_is_told(fitted, make_model, tokenizer, caplog) -> None:
    """Too few fire, too many fire, too little is rebuilt."""
    cases = [
        (fitted(threshold=1e6, l0=20), "0 of its features fire .* where 20 are expected"),
        (fitted(l0=2), r"of its features fire .* where 2 are expected"),
        (fitted(scale=30.0), "rebuilds 0% of the variance"),
    ]
    for dictionary, said in cases:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "steerdeck.fit"):
            found = fit(make_model(), tokenizer, dictionary, expected=None).fit
        assert found.warning in caplog.text
        assert re.search(said, found.warning)
        assert "layer 1 resid_post" in found.warning
        assert "made for tiny" in found.warning


def test_what_files_do_not_say_the_caller_may(fitted, make_model, tokenizer) -> None:
    assert fit(make_model(), tokenizer, fitted(), expected=500.0).fit.warning is not None
    assert fit(make_model(), tokenizer, fitted(l0=30), expected=500.0).fit.warning is None


def test_of_a_large_dictionary_a_sample_tells_the_same(make_dictionary, monkeypatch) -> None:
    dictionary = make_dictionary()
    x = torch.randn(200, D_MODEL, generator=torch.Generator().manual_seed(5))
    whole = measure(dictionary, x)
    monkeypatch.setattr(fitting, "WHOLE", 0)
    monkeypatch.setattr(fitting, "_SAMPLED", 32)
    monkeypatch.setattr(fitting, "_STRETCH", 8)
    sampled = measure(dictionary, x)
    assert (sampled.features, sampled.explained) == (32, None)
    assert sampled.l0 == pytest.approx(whole.l0, rel=0.3)


@pytest.fixture
def learnt(make_model, make_dictionary, tokenizer) -> Dictionary:
    """A TopK of k = 1 at layer 1 that knows what it is made of: each token's residual there."""
    folder = make_dictionary("learnt", architecture="topk").path
    x = residual(make_model(), tokenizer, 1)
    known = torch.nn.functional.normalize(x - x.mean(0), dim=-1)
    tensors = {
        "W_enc": known.T.contiguous(),
        "W_dec": known,
        "b_enc": torch.zeros(len(known)),
        "b_dec": x.mean(0),
    }
    save_file(tensors, folder / "sae_weights.safetensors")
    told = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(told | {"k": 1, "d_sae": len(known)}))
    return open_dictionary(folder)


@pytest.mark.parametrize("large", [False, True])
def test_a_topk_always_fires_k_so_what_it_rebuilds_tells(
    large, learnt, make_model, tokenizer, monkeypatch, caplog
) -> None:
    if large:
        monkeypatch.setattr(fitting, "WHOLE", 0)
    found = fit(make_model(), tokenizer, learnt, expected=None).fit
    assert found.l0 <= found.expected_l0 == 1
    assert found.explained > 0.95
    assert found.warning is None
    elsewhere = measure(learnt, residual(make_model(), tokenizer, 2))
    assert elsewhere.explained < 0.7
    caplog.clear()
    for family in ("gpt2", "gpt_neox"):
        with caplog.at_level(logging.INFO, "steerdeck.fit"):
            other = fit(make_model(family), tokenizer, learnt, expected=None).fit
        assert other.l0 <= 1
        assert "rebuilds 0% of the variance" in other.warning
    assert "learnt fits" not in caplog.text


def test_a_reconstruction_from_the_largest_is_that_from_all(make_dictionary) -> None:
    x = 3 * torch.randn(20, D_MODEL, generator=torch.Generator().manual_seed(5))
    for normalize in ("none", "layer_norm"):
        dictionary = make_dictionary(architecture="topk", normalize=normalize)
        found = dictionary.rebuilt(*dictionary.top(x, 8), x)
        torch.testing.assert_close(found, dictionary.decode(dictionary.encode(x), x))


def test_what_cannot_be_read_is_not_measured(make_dictionary, monkeypatch) -> None:
    x = torch.randn(50, D_MODEL, generator=torch.Generator().manual_seed(5))
    assert measure(make_dictionary(architecture="abstopk"), x) is None
    topk = make_dictionary(architecture="topk")
    assert measure(topk, x).expected_l0 == 8
    monkeypatch.setattr(Dictionary, "can_keep_encoder", lambda *_: False)
    assert measure(topk, x) is None, "a TopK takes all of its encoder"


@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
def test_an_add_of_its_reach_is_as_long_as_what_it_is_added_to(
    normalize, make_dictionary, make_model, tokenizer
) -> None:
    """In the median, whatever a dictionary does to its inputs; where it reads nothing, too."""
    dictionary = make_dictionary("reached", normalize=normalize)
    length = fit(make_model(), tokenizer, dictionary, expected=None).length
    x, (row,) = residual(make_model(), tokenizer, dictionary.info.site.layer), [7]
    rows = dictionary.rows([row])
    reach = length / rows.dec.norm()
    none, back = torch.zeros(len(x), 1), frame(x, dictionary.info.norm).back
    moved = delta(none, none + reach, rows, back).norm(dim=-1)
    assert (moved / x.norm(dim=-1)).median().item() == pytest.approx(1.0, rel=1e-3)
    assert fit_length(torch.zeros(3, D_MODEL), Norm.NONE) is None
    assert fit_length(torch.full((3, D_MODEL), torch.nan), Norm.NONE) is None


def test_the_wire_tells_what_was_measured(
    fitted, make_model, tokenizer, serve, tmp_path: Path
) -> None:
    make_model().save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    options = {"model": str(tmp_path / "tiny"), "dictionary": str(fitted(l0=1).path)}
    deck = load(Settings(data_dir=tmp_path, **options), lambda *_: None)
    try:
        http = serve(deck).http
        told = http.get("/v1/dictionaries").json()["data"][0]["fit"]
        reach = http.get("/v1/features/fitted/3").json()["reach"]
    finally:
        deck.engine.close()
    x = residual(make_model(), tokenizer, 1)
    assert reach == pytest.approx(x.norm(dim=-1).median().item(), rel=1e-3), (
        "its rows have length 1"
    )
    assert told["expected_l0"] == 1
    assert told["l0"] > 3
    assert "may not fit this model" in told["warning"]
    assert set(told) == {"l0", "expected_l0", "explained", "tokens", "features", "warning"}


def test_foghorn_fits_itself() -> None:
    from dictionaries.catalog import pairing
    from server.loading import wanted

    want = wanted(Settings(model="foghorn"))
    if not Path(want.model).exists():
        pytest.skip("the bundle is not in this checkout")
    from server.engine.load import load_model

    model, tokenizer = load_model(Path(want.model))
    (own,) = want.dictionaries
    found = fit(model, tokenizer, own.open(Path(own.name)), expected=None).fit
    assert found.expected_l0 == pairing("foghorn").l0
    assert found.warning is None
