"""The model that comes with the repository: the parts of what is shipped agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dictionaries
from dictionaries.cards import Cards

SAE = Path(dictionaries.__file__).parent / "foghorn" / "sae"
ROUNDED = 0.0005  # a preset's strength has three decimals


@pytest.mark.skipif(not SAE.exists(), reason="the bundled dictionary is not there")
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
            assert card.onset - ROUNDED <= strength < card.breakdown + ROUNDED, told
    cards.close()
