"""Labels and evidence of others: Gemma Scope 2's examples, and tables of labels."""

from __future__ import annotations

import pytest
import torch
from published import opened, place
from safetensors.torch import load_file, save_file

from dictionaries.card import Card
from dictionaries.cards import Cards
from dictionaries.errors import DictionaryError
from dictionaries.making import label_table
from dictionaries.making.gemma_examples import import_examples
from dictionaries.making.label_table import import_table

EXAMPLES = place("gemma_scope_2_resid_post") / "examples.safetensors"


def word(id: int) -> str:
    return f" t{id}"


def test_gemma_scopes_examples_become_cards(tmp_path):
    path, stored = tmp_path / "cards.sqlite", load_file(EXAMPLES)
    made = import_examples(EXAMPLES, opened("gemma_scope_2_resid_post"), path, word)
    assert made == int((stored["activations"].max(-1).values > 0).sum()) > 0
    with Cards.open(path) as cards:
        for feature in (0, 17, 63):
            card = cards.get(feature)
            strongest = int(stored["activations"][feature].argmax())
            peak = float(stored["activations"][feature, strongest])
            text, at = (int(stored[n][feature, strongest]) for n in ("seq_ids", "positions"))
            assert card.maximum == pytest.approx(peak, rel=1e-4)
            assert card.density == pytest.approx(float(stored["feature_frequencies"][feature]))
            promoted = [word(int(i)) for i in stored["top_tokens"][feature]]
            assert [token for token, _ in card.promoted] == promoted
            best = card.examples[0]
            assert max(best.activations) == pytest.approx(peak, rel=1e-4)
            shown = best.tokens[best.activations.index(max(best.activations))]
            assert shown == word(int(stored["tokens"][text, at]))
            peaks = [max(e.activations) for e in card.examples]
            assert peaks == sorted(peaks, reverse=True)
            assert card.labelled_by == "tokens"
            assert card.label


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("seq_ids"), "lacks seq_ids"),
        (lambda t: t.update(top_tokens=torch.zeros(63, 10)), r"examples of \[63, 64\] features"),
        (lambda t: t["seq_ids"].fill_(999), "point at text 999, outside of"),
        (lambda t: t["positions"].fill_(-1), "outside of the"),
        (lambda t: t.update(positions=torch.zeros(64, 3)), "contradicts itself"),
    ],
)
def test_examples_that_are_not_of_this_dictionary_are_refused(change, said, tmp_path):
    stored = load_file(EXAMPLES)
    change(stored)
    save_file(stored, tmp_path / "examples.safetensors")
    dictionary = opened("gemma_scope_2_resid_post")
    with pytest.raises(DictionaryError, match=said):
        import_examples(tmp_path / "examples.safetensors", dictionary, tmp_path / "c.sqlite", word)


R1 = "goodfire_r1_tied"
TABLE = """feature_id,label
3,"A wait, or a ""hmm""
of doubt"
5,Backtracking
9,
3,a second one
"""


def labelled(tmp_path, text, **options):
    (tmp_path / "autointerp.csv").write_text(text, **options)
    made = import_table(tmp_path / "autointerp.csv", opened(R1), tmp_path / "cards.sqlite")
    return made, Cards.open(tmp_path / "cards.sqlite")


def test_a_table_of_labels_becomes_cards(tmp_path):
    """Goodfire's of DeepSeek-R1; some programs begin a .csv with a mark of its encoding."""
    made, cards = labelled(tmp_path, TABLE, encoding="utf-8-sig")
    with cards:
        assert (made, len(cards)) == (2, 2)
        assert cards.get(3) == Card(3, 'A wait, or a "hmm" of doubt', labelled_by="autointerp")
        assert [card.feature for card in cards.search("backtrack")[0]] == [5]


def test_a_table_leaves_what_was_written_here(tmp_path, monkeypatch):
    """Also where one feature's rows come in different batches."""
    monkeypatch.setattr(label_table, "BATCH", 1)
    with Cards.create(tmp_path / "cards.sqlite") as cards:
        cards.put(
            [
                Card(3, "mine", labelled_by="concept"),
                Card(5, "says so", maximum=2.0, labelled_by="tokens"),
            ]
        )
    made, cards = labelled(tmp_path, TABLE + "5,too late\n")
    with cards:
        assert (made, cards.get(3).label) == (2, "mine")
        assert cards.get(5) == Card(5, "Backtracking", maximum=2.0, labelled_by="autointerp")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has the columns none; a table of labels has feature_id and label"),
        ("id,label\n1,a\n", "has the columns id, label;"),
        ("feature_id,label\n0,a\nx,b\n", "line 3, is no row .*'x', not a whole number"),
        ("feature_id,label\n-1,a\n", "line 2, .*'-1', not a whole number"),
        ("feature_id,label\n64,a\n", "feature 64, but .* has features 0 to 63"),
        ('feature_id,label\n1,"' + "a" * 200_000 + '"\n', "field larger than field limit"),
        ("feature_id,label\n1,\udcff\n", "line .*codec can't decode"),
    ],
)
def test_what_is_no_table_of_labels_is_refused_and_leaves_no_cards(text, said, tmp_path):
    with pytest.raises(DictionaryError, match=said):
        labelled(tmp_path, text, encoding="utf-8", errors="surrogateescape")
    assert not (tmp_path / "cards.sqlite").exists()
