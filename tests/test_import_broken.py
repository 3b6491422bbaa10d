"""An import that is broken, refused or stopped: what is named, and what stays as it was."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys

import pytest
from neuronpedia_export import EXPORT, LABELS, SAE, imported
from published import opened, place
from typer.testing import CliRunner

from dictionaries.card import Card
from dictionaries.cards import Cards
from dictionaries.errors import DictionaryError
from dictionaries.making import label_table, neuronpedia
from dictionaries.making.label_table import import_table
from dictionaries.making.neuronpedia import import_export
from server.cli import app

INF = float("inf")
BARS = {"freq_hist_data_bar_values": [1, 5]}


def row(**fields) -> bytes:
    return json.dumps({"index": "1", **fields}).encode()


@pytest.mark.parametrize(
    ("kind", "line", "said"),
    [
        ("features", b"{", "line 1 of .* is no JSON object"),
        ("features", b'{"index": "x"}', "line 1 of .* is no JSON object with an index"),
        ("features", b"[1]", "is no JSON object"),
        ("features", b'{"index": 1e999}', "is no JSON object with an index"),
        ("features", row(topkCosSimIndices=[INF], topkCosSimValues=[1]), "no row of features"),
        ("features", row(**BARS, freq_hist_data_bar_heights=[INF, 1]), "no row of features"),
        ("features", row(maxActApprox=10**400), "no row of features"),
        ("features", b'{"index": "1", "maxActApprox": "loud"}', "line 1 of .* no row of features"),
        ("features", b'{"index": "1", "frac_nonzero": 7}', "density 7 is not a fraction"),
        ("features", b'{"index": "1", "pos_str": [1, 2], "pos_values": [1]}', "no row of features"),
        ("activations", b'{"index": "1", "tokens": ["a"], "values": [NaN]}', "no row of activat"),
        ("activations", b'{"index": "1", "tokens": 3}', "no row of activations"),
    ],
)
def test_a_row_that_is_none_is_named(kind, line, said, tmp_path):
    (tmp_path / kind).mkdir()
    (tmp_path / kind / "batch-0.jsonl.gz").write_bytes(gzip.compress(line))
    with pytest.raises(DictionaryError, match=said):
        import_export(tmp_path, opened(SAE), tmp_path / "cards.sqlite")
    assert not (tmp_path / "cards.sqlite").exists(), "it would stand in the way of make describe"


def test_half_a_character_is_no_reason_to_refuse_the_rest(tmp_path):
    """JSON can name one half of what UTF-16 has in two, and SQLite takes no such text."""
    half = "\ud83d"
    for kind, line in (
        ("features", row(pos_str=[half], pos_values=[1])),
        ("activations", row(tokens=["a", half], values=[0, 1])),
        ("explanations", row(description=f"smiles {half}", explanationModelName=half)),
    ):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "batch-0.jsonl").write_bytes(line)
    with imported(tmp_path, export=tmp_path) as cards:
        card = cards.get(1)
        assert (card.label, card.labelled_by, card.promoted) == ("smiles ?", "?", (("?", 1.0),))
        assert card.examples[0].tokens == ("a", "?")


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    ("bring", "source"), [(import_export, "export"), (import_table, "table.csv")]
)
def test_an_import_refused_at_its_end_leaves_the_cards_as_they_were(
    bring, source, before, tmp_path, monkeypatch
):
    """A feature that there is not may come after thousands that passed for this dictionary's."""
    monkeypatch.setattr(neuronpedia, "BATCH", 1)
    monkeypatch.setattr(label_table, "BATCH", 1)
    export = shutil.copytree(EXPORT, tmp_path / "export")
    (export / "explanations" / "batch-10.jsonl").write_text('{"index": "64"}')
    (tmp_path / "table.csv").write_text("feature_id,label\n3,three\n64,none\n")
    path = tmp_path / "cards.sqlite"
    if before:
        with Cards.create(path) as cards:
            cards.put([Card(1, "mine")])
    there = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    with pytest.raises(DictionaryError, match="feature 64, but"):
        bring(tmp_path / source, opened(SAE), path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == there
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == [export]


def test_an_import_that_was_stopped_is_done_whole_by_the_next(tmp_path, monkeypatch):
    folder = shutil.copytree(place(SAE), tmp_path / "sae")
    ask = ["features", "import", str(EXPORT), "-d", str(folder)]

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Cards, "compact", stop)
        stopped = CliRunner().invoke(app, ask)
    assert (stopped.exit_code, "nothing was imported" in stopped.output) == (130, True)
    assert not (folder / "cards.sqlite").exists()
    assert CliRunner().invoke(app, ask).exit_code == 0
    with imported(tmp_path) as at_once, Cards.open(folder / "cards.sqlite") as later:
        assert [later.get(i) for i in range(8)] == [at_once.get(i) for i in range(8)]


def test_the_cards_of_a_writer_that_was_killed_are_filled(tmp_path):
    """What it left half done is undone first, as SQLite does for whoever may write."""
    path = tmp_path / "cards.sqlite"
    with Cards.create(path) as cards:
        cards.put([Card(1, "mine", labelled_by="concept")])
    killed = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1]); "
        "db.execute('PRAGMA cache_size = 1'); "
        "db.execute(\"UPDATE features SET label = 'half', promoted = zeroblob(200000)\"); "
        "db.execute('INSERT INTO meta VALUES (1, zeroblob(200000))'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", killed, path], check=False).returncode == 9
    assert path.with_name("cards.sqlite-journal").exists()
    with imported(tmp_path) as cards:
        assert (cards.get(1).label, cards.get(2).label) == ("mine", LABELS["2"])


def test_a_batch_cut_short_is_named(tmp_path):
    (tmp_path / "features").mkdir()
    whole = (EXPORT / "features" / "batch-0.jsonl.gz").read_bytes()
    for broken in (whole[:-40], whole[:40] + b"\xff" * 40 + whole[80:]):
        (tmp_path / "features" / "batch-0.jsonl.gz").write_bytes(broken)
        with pytest.raises(DictionaryError, match=r"batch-0.jsonl.gz cannot be read .*Download it"):
            import_export(tmp_path, opened(SAE), tmp_path / "cards.sqlite")
