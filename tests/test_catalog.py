"""The pairings: each names real parts, and the bundled one lies in the package."""

import re
from pathlib import Path

import pytest

import dictionaries
from dictionaries.catalog import names, pairing
from dictionaries.dictionary import HOOKS
from dictionaries.formats import open_dictionary
from server.presets import builtin


def test_the_bundled_pairing_comes_first_and_lies_in_the_package():
    assert names()[0] == "foghorn"
    foghorn, room = pairing("foghorn"), Path(dictionaries.__file__).parent
    assert Path(foghorn.model) == room / "foghorn" / "model"
    assert Path(foghorn.dictionary) == room / "foghorn" / "sae"
    assert foghorn.preset == "golden-gate-bridge"


@pytest.mark.parametrize("name", names())
def test_every_pairing_says_what_it_is_and_under_which_licence(name):
    found = pairing(name)
    assert found.name == name
    assert re.fullmatch(r"[a-z0-9.-]+", name)
    assert found.licence
    assert found.about.endswith(".")
    assert found.layer >= 0
    assert found.hook in HOOKS
    assert found.features > 0
    assert found.gb > 0
    assert found.size
    if name != "foghorn":
        for part in (found.model, found.dictionary):
            assert re.fullmatch(r"[\w.-]+/[\w.-]+(@[0-9a-f]{40})?(/[\w.-]+)*", part), "on the hub"
    kept = {p for p in ("model", "dictionary") if "@" not in getattr(found, p)}
    assert set(found.unpinned) == (kept if name != "foghorn" else set())


@pytest.mark.parametrize("name", [name for name in names() if pairing(name).presets])
def test_a_preset_of_the_catalog_says_where_it_was_published(name):
    found = pairing(name)
    presets = builtin(found.presets, name)
    assert len(presets) == len(found.presets), "none is left out"
    assert found.preset == presets[0].name, "what is shown first lies first"
    assert len({preset.name for preset in presets}) == len(presets)
    for preset, told in zip(presets, found.presets, strict=True):
        assert re.fullmatch(r"https://[\w.-]+\.\w+/\S+", told["source"])
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", preset.name)
        assert preset.body.title
        assert preset.body.description.endswith(".")
        assert preset.body.edits
        for edit in preset.body.edits:
            assert 0 <= edit.feature < found.features
            assert edit.unit == "raw", "no cards, no maxima"
            assert edit.op == "add"
            assert edit.strength > 0


def test_every_pairing_has_a_preset_but_those_nobody_has_published_one_for():
    without = {name for name in names() if not pairing(name).preset}
    assert without == {
        "gemma-3-270m-it", "gpt2-small", "llama-3.1-8b-goodfire", "pythia-70m", "qwen3-8b",
    }  # fmt: skip
    assert all(pairing(name).preset for name in names() if pairing(name).presets)
    told = {name for name in names() if "No preset was published" in pairing(name).about}
    assert told == without, "whoever looks for one is told"


def test_the_models_are_pinned_and_most_dictionaries():
    unpinned = {name: pairing(name).unpinned for name in names()}
    assert {name for name, parts in unpinned.items() if parts} == {
        "gemma-3-270m-it", "gpt-oss-20b", "llama-3.1-8b-eiffel", "pythia-70m", "qwen3-8b",
    }  # fmt: skip
    assert set().union(*unpinned.values()) == {"dictionary"}


def test_an_unknown_name_is_no_pairing():
    assert pairing("nonesuch") is None
    assert pairing("org/repo") is None


def test_the_bundled_dictionary_sits_where_its_pairing_says():
    foghorn = pairing("foghorn")
    if not Path(foghorn.dictionary).exists():
        pytest.skip("the bundle is not in this checkout")
    opened = open_dictionary(foghorn.dictionary)
    assert (opened.info.site.layer, opened.info.reads_exactly) == (foghorn.layer, True)
