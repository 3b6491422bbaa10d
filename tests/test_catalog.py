"""The pairings: each names real parts, and the bundled one lies in the package."""

import re
from pathlib import Path

import pytest

import dictionaries
from dictionaries.catalog import names, pairing
from dictionaries.dictionary import HOOKS
from dictionaries.formats import open_dictionary
from dictionaries.hub import pinned
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
    kept = {p for p in ("model", "dictionary") if not pinned(getattr(found, p))}
    assert set(found.unpinned) == (kept if name != "foghorn" else set())


@pytest.mark.parametrize("name", [name for name in names() if pairing(name).presets])
def test_a_preset_of_the_catalog_says_where_it_was_published(name):
    found = pairing(name)
    presets = builtin(found.presets, name)
    assert len(presets) == len(found.presets), "none is left out"
    assert found.preset in [preset.name for preset in presets]
    for preset, told in zip(presets, found.presets, strict=True):
        assert told["source"].startswith("https://")
        assert all(edit.feature < found.features for edit in preset.body.edits)
        assert all(edit.unit == "raw" for edit in preset.body.edits), "no cards, no maxima"


def test_an_unknown_name_is_no_pairing():
    assert pairing("nonesuch") is None
    assert pairing("org/repo") is None


def test_the_bundled_dictionary_sits_where_its_pairing_says():
    foghorn = pairing("foghorn")
    if not Path(foghorn.dictionary).exists():
        pytest.skip("the bundle is not in this checkout")
    opened = open_dictionary(foghorn.dictionary)
    assert (opened.info.site.layer, opened.info.reads_exactly) == (foghorn.layer, True)
