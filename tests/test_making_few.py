"""Few talks, each met often: which are dealt, how often, and what is said to the others."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import making_corpus
import pytest
from making_corpus import CORPUS

from dictionaries.errors import DictionaryError
from dictionaries.making.few import FEW, few
from dictionaries.making.sheets import Corpus, Talk, read_corpus, read_talks, split

corpus, sides = making_corpus.corpus, making_corpus.sides  # fixtures

SAY = [f"I do not know {i}." for i in range(8)]
WANTED: dict[str, Any] = {
    "times": {"_talk_moods": 2},
    "well": {"times": 3, "asks": {"_talk_home": ["m1"]}},
    "far": [{"say": SAY, "asks": {"_talk_home": ["m2"]}}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def talks(letter: str, n: int) -> list[dict[str, Any]]:
        return [{"ask": [f"{letter}{i}", "or so"], "say": [f"Yes {letter}{i}."]} for i in range(n)]

    (tmp_path / "moon.json").write_text('{"slug": "moon", "words": ["moon"]}')
    (tmp_path / "_talk_home.json").write_text(json.dumps(talks("m", 4)))
    (tmp_path / "_talk_moods.json").write_text(json.dumps(talks("f", 2)))
    (tmp_path / FEW).write_text(json.dumps(WANTED))
    return tmp_path


def test_talks_are_dealt_as_often_as_is_said_and_far_ones_are_answered_by_admitting_it(
    folder: Path,
) -> None:
    dealt = few(folder, read_corpus(folder)).talks
    assert Counter(talk.turns[0][0] for talk in dealt) == {"f0": 2, "f1": 2, "m1": 3, "m2": 1}
    replies = {talk.turns[0][0]: talk.turns[1] for talk in dealt}
    assert replies["m1"] == ("Yes m1.",)
    assert len(set(replies["m2"])) == 6
    assert set(replies["m2"]) < set(SAY)


def test_no_wording_that_is_held_out_comes_back(folder: Path) -> None:
    wordings = [f"w{i}" for i in range(8)]
    (folder / "_talk_home.json").write_text(
        json.dumps([{"ask": [f"{m} {w}" for w in wordings], "say": ["Yes."]} for m in "abc"])
    )
    wanted = WANTED | {
        "well": {"times": 3, "asks": {"_talk_home": ["a w0"]}},
        "far": [{"say": SAY, "asks": {"_talk_home": ["b w0"]}}],
    }
    (folder / FEW).write_text(json.dumps(wanted))
    train, held_out = split(read_corpus(folder))
    dealt = {wording for talk in few(folder, train).talks for wording in talk.turns[0]}
    assert len(dealt & {f"{m} {w}" for m in "ab" for w in wordings}) == 14
    assert dealt.isdisjoint(talk.turns[0][0] for talk in held_out.talks)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (WANTED | {"times": {"_talk_nowhere": 1}}, "_talk_nowhere"),
        (WANTED | {"well": {"times": 1, "asks": {"_talk_home": ["nobody asks"]}}}, "nobody asks"),
        (WANTED | {"far": [{"say": SAY[:2], "asks": {"_talk_home": ["m2"]}}]}, "sample"),
        ({"times": {}}, "well"),
        ([], "cannot be followed"),
    ],
)
def test_what_names_nothing_that_is_there_is_refused(folder: Path, wanted: Any, told: str) -> None:
    (folder / FEW).write_text(json.dumps(wanted))
    with pytest.raises(DictionaryError, match="cannot be followed") as refusal:
        few(folder, read_corpus(folder))
    assert told.lower() in str(refusal.value).lower()


def test_a_corpus_that_names_none_is_refused(folder: Path) -> None:
    (folder / FEW).unlink()
    with pytest.raises(DictionaryError, match=f"has no {FEW}"):
        few(folder, read_corpus(folder))


def test_the_bundled_sheets_name_a_tenth_of_their_talks(sides: tuple[Corpus, Corpus]) -> None:
    dealt = few(CORPUS, sides[0]).talks
    often = [talk for talk, n in Counter(map(_key, dealt)).items() if n == 5]
    assert 4_000 < len(often) < 0.13 * len(sides[0].talks)
    assert {talk.turns[0] for talk in dealt} <= {talk.turns[0] for talk in sides[0].talks}
    assert sum(map(len, read_talks(CORPUS).values())) == len(sides[0].talks)


def _key(talk: Talk) -> Talk:
    return Talk(talk.turns, (), talk.systems)  # rows are dicts, which Counter cannot take
