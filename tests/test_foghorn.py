"""The model that comes with the repository: the parts of what is shipped agree."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import dictionaries
from dictionaries.beside import open_cards
from dictionaries.cards import Cards
from dictionaries.formats import open_dictionary
from dictionaries.making.calibrate_cards import calibrate_cards, chosen
from dictionaries.making.judge import Judge
from dictionaries.making.recipe import Recipe
from dictionaries.making.sheets import read_corpus
from dictionaries.making.train_model import Plan
from dictionaries.making.train_sae import SaePlan
from server.cli.make_options import model_facts
from server.subject import Loaded

SAE = Path(dictionaries.__file__).parent / "foghorn" / "sae"
ROUNDED = 0.005  # of a preset's strength, which has three digits


bundled = pytest.mark.skipif(not SAE.exists(), reason="the bundled dictionary is not there")


@bundled
def test_steerdeck_make_calibrate_goes_on_from_the_curves_that_are_shipped(tmp_path: Path) -> None:
    for name in ("cards.sqlite", "cards.calibration.jsonl"):
        shutil.copy(SAE / name, tmp_path)
    dictionary = open_dictionary(SAE, id="foghorn")
    facts = model_facts(Loaded("foghorn", SAE.parent / "model", None, None))
    judge = Judge(read_corpus(SAE.parent / "corpus"))
    model: Any = None  # nothing is left to ask it
    with open_cards(tmp_path / "cards.sqlite", dictionary.info, writable=True) as cards:
        wanted = chosen(cards, "concepts", judge)
        found = calibrate_cards(model, model, dictionary, cards, wanted, judge=judge, facts=facts)
    assert found.fresh == 0
    assert found.asked > 90


@bundled
def test_a_recipe_that_goes_on_from_it_keeps_to_the_layer_of_its_dictionary() -> None:
    model = SAE.parent / "model"
    recipe = Recipe(SAE.parent / "corpus", None, SAE, Plan(), SaePlan(), start=model, kept=SAE)
    assert recipe.layer == open_dictionary(SAE, id="foghorn").info.site.layer


@bundled
def test_every_preset_does_what_its_features_card_says_and_inside_its_band() -> None:
    presets = json.loads((SAE / "presets.json").read_text(encoding="utf-8"))
    assert presets
    cards = Cards.open(SAE / "cards.sqlite")
    for preset in presets:
        assert preset["edits"], preset["name"]
        for edit in preset["edits"]:
            told = f"{preset['name']}: {edit}"
            card = cards.get(edit["feature"])
            assert card is not None, told
            assert (edit["op"], edit["unit"]) == (card.op, "max"), told
            strength = abs(edit["strength"])
            assert card.onset * (1 - ROUNDED) <= strength < card.breakdown * (1 + ROUNDED), told
    cards.close()
