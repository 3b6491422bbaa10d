"""Whose cards and presets are whose: a folder's lie in it, a file's bear its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from published import FIXTURES, copied, place
from typer.testing import CliRunner

from dictionaries.beside import cards_beside, cards_of, open_cards, owner, presets_beside
from dictionaries.card import Card
from dictionaries.cards import Cards
from dictionaries.catalog import pairing
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
from dictionaries.pack import pack
from server.cli import app
from server.loading import load
from server.settings import Settings
from server.subject import subject

EXPORT = FIXTURES / "neuronpedia_export" / "v1" / "gemma-2-2b" / "12-gemmascope-res-16k"


@pytest.fixture
def model(make_model, tokenizer, tmp_path) -> Path:
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def scope(tmp_path) -> Path:
    """Two layers' dictionaries of the tiny model in one folder, a file each."""
    folder, draw = tmp_path / "scope", torch.Generator().manual_seed(4)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"k": 8, "hook_point": "resid_post"}))
    for layer in (0, 1):
        shapes = {"W_enc": (64, 32), "W_dec": (32, 64), "b_enc": (64,), "b_dec": (32,)}
        tensors = {n: torch.randn(shape, generator=draw) for n, shape in shapes.items()}
        torch.save(tensors, folder / f"layer{layer}.sae.pt")
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_each_file_of_a_folder_has_cards_and_presets_of_its_own(model, scope, tmp_path):
    """From `make describe` without an --out to the service."""
    (tmp_path / "notes.txt").write_text("a foggy bridge of stone over the river " * 20)
    first, second = (scope / f"layer{layer}.sae.pt" for layer in (0, 1))
    told = ("-t", tmp_path / "notes.txt", "--tokens", 100, "--rows", 2, "--context", 16)
    made = run("make", "describe", "-m", model, "-d", second, *told, "--device", "cpu")
    assert made.exit_code == 0, made.output
    preset = {"name": "mine", "edits": [{"feature": 3, "strength": 1.0, "unit": "raw"}]}
    presets_beside(second).write_text(json.dumps([preset]))
    with subject(str(model), str(second), device="cpu") as bench:
        assert bench.cards == cards_beside(second)
        assert bench.cards.is_file()
    for file, cards, presets in ((first, set(), []), (second, {"scope-layer1"}, ["mine"])):
        options = {"model": str(model), "dictionary": str(file), "data_dir": tmp_path / "data"}
        deck = load(Settings(**options), lambda *_: None)
        deck.engine.close()
        assert set(deck.cards) == cards
        assert [preset.name for preset in deck.presets.all()] == presets


def test_an_import_fills_the_cards_of_one_layer_alone(tmp_path):
    file = copied("qwen_scope", tmp_path / "qwen")
    twelve = shutil.copy(file, file.with_name("layer12.sae.pt"))
    assert run("features", "import", EXPORT, "-d", twelve).exit_code == 0
    assert cards_beside(twelve).is_file()
    assert not cards_beside(file).is_file()


@pytest.mark.parametrize(
    "name",
    [
        "saelens_v6_topk",
        "qwen_scope",
        "circuit_tracer_relu",
        "connor_rob_hook_z",
        "openai_v5_topk",
        "goodfire_r1_tied",
        "deepseek_r1_qresearch",
    ],
)
def test_they_are_found_however_the_dictionary_is_named(name):
    """By its folder, or by one of the files that it is."""
    path = place(name)
    asked = [path, *path.glob("sae_weights.safetensors")] if path.is_dir() else [path]
    found = {cards_beside(open_dictionary(one).path) for one in asked}
    beside = path.with_name(f"{path.name}.cards.sqlite")
    assert found == {path / "cards.sqlite" if path.is_dir() else beside}


def test_cards_of_another_dictionary_are_refused(make_dictionary, model, tmp_path):
    one, other = make_dictionary("one", seed=1), make_dictionary("other", seed=2)
    path = cards_beside(one.path)
    with Cards.create(path) as cards:
        cards.put([Card(3, "three", maximum=2.0)])
    open_cards(path, other.info).close()  # it does not say whose it is
    with Cards.open(path, writable=True) as cards:
        cards.put_meta(owner(other.info))
    for writable in (False, True):
        with pytest.raises(DictionaryError, match=r"of 'other' at .*not of 'one'.*make them anew"):
            open_cards(path, one.info, writable=writable)
    options = {"model": str(model), "dictionary": str(one.path), "data_dir": tmp_path}
    with pytest.raises(DictionaryError, match="cards of another dictionary"):
        load(Settings(**options), lambda *_: None)
    where = ("-m", model, "-d", one.path, "--device", "cpu")
    for asked in (
        ("make", "calibrate", *where, "--features", "3"),
        ("make", "evaluate", *where, "--out", tmp_path / "exam"),
        ("features", "import", place("gemma_scope_2_resid_post"), "-d", one.path, "-m", model),
    ):
        refused = run(*asked)
        assert refused.exit_code == 1
        assert "cards of another dictionary" in refused.output


def test_cards_made_at_another_commit_of_the_same_weights_are_found(
    make_dictionary, model, tmp_path
):
    """The hub's cache has a folder a commit, and a commit may change a README alone."""
    source, snapshots = make_dictionary().path, tmp_path / "models--org--saes" / "snapshots"
    old, new, other = (shutil.copytree(source, snapshots / (c * 40) / "sae") for c in "abc")
    (other / "cfg.json").write_text((other / "cfg.json").read_text() + "\n")
    (tmp_path / "mine.csv").write_text("feature_id,label\n7,mine\n")
    (tmp_path / "more.csv").write_text("feature_id,label\n8,more\n")
    assert run("features", "import", tmp_path / "mine.csv", "-d", old).exit_code == 0
    assert run("features", "import", tmp_path / "more.csv", "-d", new).exit_code == 0
    assert not cards_beside(new).exists(), "they would hide the others"
    for folder, wanted in ((new, old), (other, other)):
        opened = open_dictionary(folder)
        assert cards_of(opened.path, opened.info) == cards_beside(wanted)
        options = {"model": str(model), "dictionary": str(folder), "data_dir": tmp_path / "data"}
        deck = load(Settings(**options), lambda *_: None)
        deck.engine.close()
        labels = [cards.get(i).label for cards in deck.cards.values() for i in (7, 8)]
        assert labels == (["mine", "more"] if wanted == old else [])


def test_an_import_says_whose_cards_it_made(tmp_path):
    folder = shutil.copytree(place("saelens_v6_jumprelu"), tmp_path / "sae")
    assert run("features", "import", EXPORT, "-d", folder).exit_code == 0
    info = open_dictionary(folder).info
    with open_cards(cards_beside(folder), info) as cards:
        assert cards.meta["dictionary_revision"] == info.revision


def test_a_packed_copy_goes_by_the_cards_of_its_source(make_dictionary, tmp_path):
    source = make_dictionary()
    with Cards.create(cards_beside(source.path)) as cards:
        cards.put_meta(owner(source.info))
    packed = ("dictionaries", "pack", source.path, "--out", tmp_path / "packed")
    assert run(*packed).exit_code == 0
    pack(open_dictionary(tmp_path / "packed"), tmp_path / "again")
    for folder in ("packed", "again"):
        info = open_dictionary(tmp_path / folder).info
        assert info.revision != source.info.revision == info.packed_from
        open_cards(tmp_path / "packed" / "cards.sqlite", info).close()


def test_the_bundles_cards_are_its_dictionarys():
    foghorn = pairing("foghorn")
    if not Path(foghorn.dictionary).exists():
        pytest.skip("the bundle is not in this checkout")
    opened = open_dictionary(foghorn.dictionary)
    with open_cards(cards_beside(opened.path), opened.info) as cards:
        assert cards.by_slug(foghorn.preset) is not None
        assert cards.meta["dictionary_revision"] == opened.info.revision
