"""Concept sheets and talks: what opens, what is held out, and what training has in other words."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import making_corpus
import pytest
from making_corpus import CORPUS

from dictionaries.errors import DictionaryError
from dictionaries.making.compose import Composer
from dictionaries.making.data import Text
from dictionaries.making.everyday import known, read_messages
from dictionaries.making.sheets import PARTS, Corpus, Talk, read_corpus, split

corpus, sides = making_corpus.corpus, making_corpus.sides  # fixtures
corner = making_corpus.corner  # fixture


def test_every_sheet_opens_with_all_its_parts(corpus: Corpus) -> None:
    assert len(corpus.sheets) == len({s.slug for s in corpus.sheets}) >= 100
    for sheet in corpus.sheets:
        assert all(getattr(sheet, part) for part in PARTS), sheet.slug


def test_a_folder_without_sheets_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        read_corpus(tmp_path)


def test_a_sheet_may_lack_all_but_its_slug_and_words(tmp_path: Path) -> None:
    few = {"slug": "stone-bridge", "words": ["arch"], "facts": ["An arch."]}
    (tmp_path / "a.json").write_text(json.dumps(few))
    (sheet,) = read_corpus(tmp_path).sheets
    assert (sheet.names, sheet.kind, sheet.facts) == (("stone bridge",), "thing", ("An arch.",))
    assert not any(getattr(sheet, part) for part in PARTS if part != "facts")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a", "{"),
        ("a", "[1]"),
        ("a", '{"slug": "a"}'),
        ("a", '{"slug": "a", "words": ["b"], "qa": [{"q": "c"}]}'),
        ("a", "[" * 100_000),
        ("_general_01", '[{"u": "hi"}]'),
        ("_talk_01", "3"),
    ],
)
def test_what_is_no_sheet_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "good.json").write_text('{"slug": "good", "words": ["good"]}')
    (tmp_path / f"{name}.json").write_text(text)
    with pytest.raises(DictionaryError, match=rf"{name}\.json is no file of concept sheets"):
        read_corpus(tmp_path)


def test_sheets_of_which_nothing_can_be_composed_are_refused(tmp_path: Path) -> None:
    seven = {"slug": "moon", "words": ["moon"], "facts": [f"Fact {i}." for i in range(7)]}
    (tmp_path / "moon.json").write_text(json.dumps(seven))
    train, held_out = split(read_corpus(tmp_path))
    assert next(iter(Composer(train))).topic == "moon"
    with pytest.raises(DictionaryError, match="give a sheet eight facts"):
        next(iter(Composer(held_out)))
    with pytest.raises(DictionaryError, match="moon have neither"):
        Text.read(tmp_path, None)


def test_held_out_and_training_text_are_disjoint_and_lose_nothing(
    corpus: Corpus, sides: tuple[Corpus, Corpus]
) -> None:
    train, held = sides
    for whole, kept, out in zip(corpus.sheets, train.sheets, held.sheets, strict=True):
        for part in PARTS:
            a, b, all_ = (getattr(s, part) for s in (kept, out, whole))
            assert len(a) + len(b) == len(all_)
            assert set(a) | set(b) == set(all_)
            if len(all_) >= 8:
                assert b
    everywhere = {p for p in corpus.general if corpus.general.count(p) == 1}
    assert not everywhere & set(train.general) & set(held.general)


def test_the_split_depends_on_its_seed_alone(corner: Text) -> None:
    some = corner.train
    assert split(some, seed=3) == split(some, seed=3)
    assert split(some, seed=3) != split(some, seed=4)


def test_every_talk_is_whole_and_ends_in_a_reply(corpus: Corpus) -> None:
    assert len(corpus.talks) > 3000
    for talk in corpus.talks:
        assert len(talk.turns) % 2 == 0
        for row in talk.rows or ({},):
            for text in itertools.chain(talk.systems, *talk.turns):
                assert "{" not in (text.format_map(row) if row else text), (talk, row)


def test_the_held_out_wording_of_a_talk_is_seen_nowhere_in_its_training_side(
    corpus: Corpus, sides: tuple[Corpus, Corpus]
) -> None:
    train, held = sides
    for whole, kept in zip(corpus.talks, train.talks, strict=True):
        assert set(kept.turns[0]) <= set(whole.turns[0])
        assert (len(whole.turns[0]) - len(kept.turns[0])) == (len(whole.turns[0]) >= 6)
    kept_by_rest = {(t.turns[1:], t.rows, t.systems): t for t in map(_hashable, train.talks)}
    for talk in map(_hashable, held.talks):
        assert not set(talk.turns[0]) & set(
            kept_by_rest[talk.turns[1:], talk.rows, talk.systems].turns[0]
        )


def _hashable(talk: Talk) -> Talk:
    return replace(talk, rows=tuple(map(str, talk.rows)))  # type: ignore[arg-type]


def test_a_message_is_known_in_the_other_words_that_training_has_it_in() -> None:
    asked = ("how do i fall asleep faster", "nice to meet you", "My jumper shrank in the wash")
    talks = tuple(Talk(((message,), ("I see.",))) for message in asked)
    said = [
        "HOW can I fall asleep faster",
        "Hello, nice to meet you.",
        "My pullover shrank in the wash!",
    ]
    assert known(Corpus((), (), (), (), talks), [*said, "Zebras hum."]) == said


def test_the_everyday_messages_of_the_model_card_are_in_no_training_text(corpus: Corpus) -> None:
    messages = read_messages(CORPUS.parent / "everyday.json")
    assert len(messages) == len(set(messages)) == 100
    talk = next(t for t in corpus.talks if len(t.turns) > 2 and t.rows)
    later = talk.turns[2][0].format_map(talk.rows[-1])
    seen = [later.upper() + "?", corpus.sheets[0].drift[0].user]
    assert known(corpus, [*messages, *seen]) == seen
