"""Neuronpedia's labels and evidence become cards; and the command that imports them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from neuronpedia_export import EXPORT, LABELS, SAE, imported
from published import opened, place
from transformers import AutoTokenizer
from typer.testing import CliRunner

from dictionaries.card import Card, Example
from dictionaries.cards import Cards
from dictionaries.catalog import pairing
from dictionaries.making.neuronpedia import import_export
from server.cli import app
from server.cli.features_import import _texts


def test_an_export_of_neuronpedia_becomes_cards(tmp_path):
    with imported(tmp_path) as cards:
        assert {str(i): cards.get(i).label for i in range(8)} == LABELS
        card = cards.get(2)
        assert card.labelled_by == "gpt-4o-mini"
        assert card.density == 0.003
        assert card.promoted == ((" dog", 1.2), (" cat", 1.1))
        assert card.suppressed == ((" no", -0.8),)
        assert card.histogram.counts == (3, 1)
        assert [e.tokens for e in card.examples] == [("<bos>", " my", " dog")]
        assert [c.feature for c in cards.search("legal cit")[0]] == [2]
        assert cards.meta["labels"]["source"] == "gemma-2-2b/12-gemmascope-res"


def test_its_activations_come_in_the_dictionarys_own_units(tmp_path):
    """Neuronpedia folds decoder rows to length 1, except those of TopK dictionaries."""
    for name in (SAE, "saelens_v6_topk"):
        folder = tmp_path / name
        folder.mkdir()
        length = opened(name).rows([2]).dec.norm().item() if name == SAE else 1.0
        assert name != SAE or abs(length - 1) > 0.1
        with imported(folder, name) as cards:
            card = cards.get(2)
        assert card.maximum == pytest.approx(13.0 / length, rel=1e-4)
        assert card.examples[0].activations == pytest.approx((0, 0, 9.5 / length), rel=1e-4)
        assert card.examples[0].interval == pytest.approx((8 / length, 10 / length), rel=1e-4)
        edges = (0.0, 3 / length, 7 / length)  # bars with middles 1 and 5
        assert card.histogram.edges == pytest.approx(edges, rel=1e-4)


def test_whose_explanation_is_taken_can_be_chosen(tmp_path):
    with imported(tmp_path, by="claude") as cards:
        assert cards.get(0).label == "a second label for feature 0"
        assert cards.get(1).label == "fires on dog", "what nobody explained is named by tokens"
        assert cards.get(1).labelled_by == "tokens"


def test_what_was_measured_or_written_here_stays(tmp_path):
    path = tmp_path / "cards.sqlite"
    own = Example((" own",), (1.0,))
    with Cards.create(path) as cards:
        cards.put(
            [
                Card(0, "mine", maximum=3.0, examples=(own,), labelled_by="concept", slug="mine"),
                Card(1, "says hi", maximum=2.0, labelled_by="tokens", onset=0.5, breakdown=2.0),
            ]
        )
    import_export(EXPORT, opened(SAE), path)
    with Cards.open(path) as cards:
        kept, completed = cards.get(0), cards.get(1)
    assert (kept.label, kept.labelled_by, kept.slug) == ("mine", "concept", "mine")
    assert (kept.maximum, kept.examples, kept.density) == (3.0, (own,), 0.001)
    assert (completed.label, completed.labelled_by) == (LABELS["1"], "gpt-4o-mini")
    assert (completed.maximum, completed.steerability) == (2.0, 1.5)


def test_importing_twice_changes_nothing(tmp_path):
    with imported(tmp_path) as cards:
        first = [cards.get(i) for i in range(8)]
    with imported(tmp_path) as cards:
        assert [cards.get(i) for i in range(8)] == first


def test_an_export_of_labels_alone_is_enough(tmp_path):
    export = tmp_path / "export"
    shutil.copytree(EXPORT / "explanations", export / "explanations")
    with imported(tmp_path, export=export) as cards:
        assert (len(cards), cards.get(7).label) == (8, LABELS["7"])


# --- The command ---


def test_the_command_fills_the_cards_beside_a_dictionary(tmp_path, tokenizer):
    folder = shutil.copytree(place(SAE), tmp_path / "sae")

    def run(*arguments):
        return CliRunner().invoke(app, ["features", "import", *map(str, arguments)])

    said = run(EXPORT, "-d", folder)
    assert said.exit_code == 0, said.output
    assert "8 features have a written label" in said.output
    with Cards.open(folder / "cards.sqlite") as cards:
        assert cards.get(3).label == LABELS["3"]
    tokenizer.save_pretrained(tmp_path / "model")
    gemma = place("gemma_scope_2_resid_post")
    out = tmp_path / "gemma.sqlite"
    said = run(gemma, "-d", gemma, "-o", out, "-m", tmp_path / "model")
    assert said.exit_code == 0, said.output
    assert len(Cards.open(out)) == 64
    (tmp_path / "mine.csv").write_text("feature_id,label\n7,mine\n")
    said = run(tmp_path / "mine.csv", "-d", gemma, "-o", tmp_path / "table.sqlite")
    assert "table.sqlite: 1 features have a written label" in said.output.replace("\n", "")
    for source, words in ((tmp_path, "neither a folder of"), (tmp_path / "no", "is not there")):
        refused = run(source, "-d", folder)
        assert (refused.exit_code, words in refused.output) == (1, True)


def test_the_tokenizer_of_an_import_goes_by_the_names_of_the_catalog(monkeypatch):
    asked = []
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda *name, **more: asked.append((*name, more))
    )
    for name in ("gpt2-small", "org/name@main/sub", "foghorn"):
        _texts(name, opened(SAE))
    commit = pairing("gpt2-small").model.partition("@")[2]
    assert asked[:2] == [
        ("openai-community/gpt2", {"revision": commit, "subfolder": ""}),
        ("org/name", {"revision": "main", "subfolder": "sub"}),
    ]
    if Path(pairing("foghorn").model).exists():
        assert asked[2] == (Path(pairing("foghorn").model), {})
