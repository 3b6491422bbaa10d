"""What the files of a dictionary do not say is said behind its name, wherever it is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from published import FIXTURES, copied, place
from typer.testing import CliRunner

from dictionaries.asked import Asked, asked
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
from server.cli import app
from server.loading import load, wanted
from server.settings import Settings
from server.subject import subject

EXPORT = FIXTURES / "neuronpedia_export" / "v1" / "gemma-2-2b" / "12-gemmascope-res-16k"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("org/repo/a.pt", Asked("org/repo/a.pt")),
        ("org/repo?k=128", Asked("org/repo", k=128)),
        ("a.gguf?layer=0", Asked("a.gguf", layer=0)),
        ("./sae?id=own&norm_scaling_factor=2.5", Asked("./sae", None, 2.5, "own")),
    ],
)
def test_a_name_is_taken_apart(name, found):
    assert asked(name) == found
    assert asked(found.name + found.facts) == replace(found, id=None)


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("", "stand k, norm_scaling_factor, id"),
        ("K=3", "stand k"),
        ("k", "k should be a whole number from 1 to 999999999, not ''"),
        ("k=0", "not '0'"),
        ("layer=-1", "layer should be a whole number from 0 to 999999999, not '-1'"),
        (f"k={'9' * 5000}", "not '99999999999999999999'"),
        ("k=2.5", "not '2.5'"),
        ("k=\N{SUPERSCRIPT TWO}", "not '\N{SUPERSCRIPT TWO}'"),
        ("norm_scaling_factor=inf", "a number above 0, not 'inf'"),
        ("norm_scaling_factor=-1", "a number above 0, not '-1'"),
        ("norm_scaling_factor=nan", "a number above 0, not 'nan'"),
        ("norm_scaling_factor=x&k=3", "a number above 0, not 'x'"),
    ],
)
def test_what_is_not_understood_is_refused(rest, said):
    with pytest.raises(DictionaryError, match=said):
        asked(f"org/repo?{rest}")


def test_a_name_of_ones_own_goes_before_the_one_it_would_have_had():
    """`serve` gives a dictionary its catalog name, unless it was asked for under another."""
    path = place("saelens_v6_topk")
    assert asked(f"{path}?id=own").open(path, id="given").info.id == "own"
    assert asked(str(path)).open(path, id="given").info.id == "given"


def test_a_folder_of_that_name_is_one(tmp_path):
    (tmp_path / "sae?k=3").mkdir()
    assert asked(f"{tmp_path}/sae?k=3") == Asked(f"{tmp_path}/sae?k=3")


@pytest.fixture
def unscaled(make_dictionary):
    """A dictionary of the tiny model whose files lack the scale of its inputs."""
    folder = make_dictionary("unscaled").path
    config = json.loads((folder / "cfg.json").read_text())
    config["normalize_activations"] = "expected_average_only_in"
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def test_a_dictionary_without_its_scale_is_served_and_made_cards_for(
    unscaled, make_model, tokenizer, tmp_path
):
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    options = {"model": str(tmp_path / "model"), "data_dir": tmp_path}
    with pytest.raises(DictionaryError, match=r"NAME\?norm_scaling_factor="):
        load(Settings(dictionary=str(unscaled), **options), lambda *_: None)
    named = f"{unscaled}?norm_scaling_factor=2.5"
    deck = load(Settings(dictionary=f"{named},{named}&id=other", **options), lambda *_: None)
    deck.engine.close()
    assert set(deck.dictionaries) == {"unscaled", "other"}
    assert all(d.weights.enc_scale == 2.5 for d in deck.dictionaries.values())
    with subject(str(tmp_path / "model"), named, device="cpu") as bench:
        assert bench.dictionary.weights.enc_scale == 2.5
    packed = ["dictionaries", "pack", named, "--out", str(tmp_path / "packed")]
    assert CliRunner().invoke(app, packed).exit_code == 0
    assert open_dictionary(tmp_path / "packed").weights.enc_scale == 2.5


def test_labels_are_imported_for_a_dictionary_that_lacks_its_k(tmp_path):
    file = copied("qwen_scope", tmp_path / "qwen")
    twelve = shutil.copy(file, file.with_name("layer12.sae.pt"))
    (file.parent / "config.json").unlink()

    def run(name):
        return CliRunner().invoke(app, ["features", "import", str(EXPORT), "-d", str(name)])

    refused = run(twelve)
    assert refused.exit_code == 1
    assert "layer12.sae.pt?k=" in refused.output.replace("\n", "")
    assert run(f"{twelve}?k=6").exit_code == 0


def test_a_name_of_the_catalog_keeps_what_is_said_behind_it():
    want = wanted(Settings(model="./mine", dictionary="qwen3-8b?k=50,gpt2-small?id=own"))
    there = "Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50/layer18.sae.pt"
    assert want.dictionaries[0] == Asked(there, k=50, id="qwen3-8b")
    assert want.dictionaries[1].id == "own"


def test_inspect_takes_it_too():
    path = place("saelens_v5_expected_average_only_in")
    said = CliRunner().invoke(app, ["dictionaries", "inspect", f"{path}?norm_scaling_factor=2.5"])
    assert said.exit_code == 0, said.output
