"""Concept sheets in a description: which texts count for a concept, and what is no sheet."""

from __future__ import annotations

import json

import making_described
import numpy as np
import pytest

from dictionaries.errors import DictionaryError
from dictionaries.making.concept_sheets import Concepts, Labelled, labelled, read_concepts
from dictionaries.making.firings import Peaks
from dictionaries.making.matching import Counts, chosen

sheets = making_described.sheets  # fixture


def test_a_concepts_name_goes_to_no_feature_without_a_card(tmp_path):
    """Feature 0 tells the sheet's texts best, and has fired nowhere in the corpus."""
    counts = Counts(tmp_path / "counts", 1, 2)
    texts = [Labelled("fog", 0, ()), Labelled("mist", 0, ()), Labelled("sea", None, ())]
    feature, row = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 2])
    counts.count(texts)
    counts.add(Peaks(feature, row, row, np.ones(4, np.float32)), texts, np.float32([0, 1]))
    ranked = [counts.best(0, "foggy", np.array([live, True])) for live in (True, False)]
    assert [[match.feature for match in matches] for matches in ranked] == [[0, 1], [1]]
    assert list(chosen(ranked[1:], least_f1=0.1)) == [1]


def test_texts_know_which_other_concepts_they_name(sheets):
    known = read_concepts(sheets)
    loud, stone = ([c.slug for c in known.concepts].index(s) for s in ("loud", "stone-bridge"))
    foreign = Concepts(known.concepts, ("Two stones.", "HEY you", "hey you", "nothing"))
    named = [one.named for one in labelled(foreign) if one.about is None]
    assert named == [(stone,), (loud,), (), ()]
    assert all(one.about not in one.named for one in labelled(known))


@pytest.mark.parametrize(
    "sheet",
    ["[1]", '{"slug": "a"}', '{"slug": "a", "words": []}', "{", '{"slug": 3, "facts": ["x"]}'],
)
def test_a_folder_that_holds_no_sheet_is_refused_by_name(tmp_path, sheet):
    with pytest.raises(DictionaryError, match="no concept sheets"):
        read_concepts(tmp_path)
    (tmp_path / "a.json").write_text(sheet)
    with pytest.raises(DictionaryError, match=r"a\.json is no concept sheet"):
        read_concepts(tmp_path)


def test_a_concept_is_told_from_at_least_as_many_texts_about_something_else(tmp_path):
    def write(slug: str, words: list[str], texts: list[str]) -> None:
        sheet = {"slug": slug, "words": words, "facts": texts}
        (tmp_path / f"{slug}.json").write_text(json.dumps(sheet))

    def calm(n: int, said: str = "well") -> None:
        pairs = [{"u": "how are you", "a": said}] * n
        (tmp_path / "_general_01.json").write_text(json.dumps(pairs))

    write("bridge", ["span"], ["A long span."] * 6)
    alone = r"bridge holds 6 texts, and 0 .*_general_01\.json"
    with pytest.raises(DictionaryError, match=alone):
        read_concepts(tmp_path)
    calm(5)
    with pytest.raises(DictionaryError, match="6 texts, and 5"):
        read_concepts(tmp_path)
    calm(6, "it spans the bay")
    with pytest.raises(DictionaryError, match="6 texts, and 0"):
        read_concepts(tmp_path)
    calm(6)
    assert len(read_concepts(tmp_path).calm) == 6
    calm(0)
    write("fog", ["mist"], ["Grey mist."] * 6)
    assert len(read_concepts(tmp_path).concepts) == 2


@pytest.mark.parametrize("slug", ["Golden_Gate", "golden gate", "12", "", None])
def test_a_slug_that_no_card_takes_is_refused_when_the_sheets_are_read(tmp_path, slug):
    sheet = {"slug": slug, "words": ["bridge"], "facts": ["A bridge."]}
    (tmp_path / "a.json").write_text(json.dumps(sheet))
    with pytest.raises(DictionaryError, match=r"a\.json .* must be small letters and digits"):
        read_concepts(tmp_path)
