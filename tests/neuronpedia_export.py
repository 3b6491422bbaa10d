"""An export of Neuronpedia, and the cards that it becomes."""

from __future__ import annotations

import json

from published import FIXTURES, opened

from dictionaries.cards import Cards
from dictionaries.making.neuronpedia import import_export

EXPORT = FIXTURES / "neuronpedia_export" / "v1" / "gemma-2-2b" / "12-gemmascope-res-16k"
LABELS = json.loads((FIXTURES / "neuronpedia_export" / "meta.json").read_text())["expected_labels"]
SAE = "saelens_v6_jumprelu"  # layer 12, as the export; its decoder rows are not of length 1


def imported(tmp_path, name=SAE, export=EXPORT, **options):
    path = tmp_path / "cards.sqlite"
    import_export(export, opened(name), path, **options)
    return Cards.open(path)
