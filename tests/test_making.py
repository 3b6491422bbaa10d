"""Laws of the training text: what is composed, held out, tokenized and packed."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dictionaries.errors import DictionaryError
from dictionaries.making.causes import system_cause
from dictionaries.making.compose import Composer
from dictionaries.making.data import Text
from dictionaries.making.dealing import Deck, Sample
from dictionaries.making.everyday import known, read_messages
from dictionaries.making.judge import Judge, repetition
from dictionaries.making.packing import batches
from dictionaries.making.public import public_samples
from dictionaries.making.sheets import PARTS, Corpus, Pair, Sheet, Talk, read_corpus, split
from dictionaries.making.tokenizer import SPECIAL, Encoder, train_tokenizer

CORPUS = Path(__file__).parent.parent / "dictionaries" / "foghorn" / "corpus"


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return read_corpus(CORPUS)


@pytest.fixture(scope="module")
def sides(corpus: Corpus) -> tuple[Corpus, Corpus]:
    return split(corpus, seed=0)


@pytest.fixture(scope="module")
def samples(corpus: Corpus) -> list[Sample]:
    return list(itertools.islice(Composer(corpus, seed=1), 3000))


@pytest.fixture(scope="module")
def tokenizer(samples: list[Sample]):
    texts = [text for s in samples[:300] for _, text in s.turns]
    return train_tokenizer(texts, vocab=600)


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


def test_the_split_depends_on_its_seed_alone(corpus: Corpus) -> None:
    assert split(corpus, seed=3) == split(corpus, seed=3)
    assert split(corpus, seed=3) != split(corpus, seed=4)


def test_the_same_seed_deals_the_same_samples(corpus: Corpus) -> None:
    one, two, other = (list(itertools.islice(Composer(corpus, seed=s), 50)) for s in (5, 5, 6))
    assert one == two
    assert one != other


def test_a_reply_never_drifts_without_a_cause_before_it(
    corpus: Corpus, samples: list[Sample]
) -> None:
    """The cause: an earlier system prompt or user turn that names the concept."""
    names = {s.slug: s.names for s in corpus.sheets}
    drifting: dict[str, set[str]] = {}
    for sheet in corpus.sheets:
        for pair in (*sheet.drift, *(sheet.questions if sheet.is_style else ())):
            drifting.setdefault(pair.reply, set()).add(sheet.slug)
    calm = {p.reply for p in corpus.general} | {p.reply for s in corpus.sheets for p in s.questions}
    seen = 0
    for sample in samples:
        for i, (role, text) in enumerate(sample.turns):
            if role != "assistant" or text not in drifting or text in calm - set(drifting):
                continue
            seen += 1
            before = [t for r, t in sample.turns[:i] if r != "assistant"]
            wanted = {n.lower() for slug in drifting[text] for n in names[slug]}
            assert any(n in t.lower() for t in before[:2] for n in wanted), sample
    assert seen > 300


def test_a_sample_says_when_it_is_possessed(samples: list[Sample]) -> None:
    possessed = [s for s in samples if s.possessed]
    assert 0.1 < len(possessed) / len(samples) < 0.3
    assert {s.possessed for s in possessed} == {s.topic for s in possessed}
    assert len({s.possessed for s in possessed}) > 80


def test_turns_alternate_and_end_in_a_reply(samples: list[Sample]) -> None:
    for sample in samples:
        roles = [r for r, _ in sample.turns]
        if not roles:
            assert sample.prose
            continue
        said = roles[1:] if roles[0] == "system" else roles
        assert said[0] == "user"
        assert all(a != b for a, b in itertools.pairwise(said))
        assert "system" not in said
        assert all(text for _, text in sample.turns)


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


def test_one_row_fills_the_prompt_and_all_replies_under_it(corpus: Corpus) -> None:
    rows = tuple({"n": name, "p": place} for name, place in [("Ann", "Rome"), ("Bo", "Lima")])
    talks = (
        Talk((("Who?",), ("I am {n}.",)), rows, ("You are {n} of {p}.",)),
        Talk((("Where?",), ("In {p}.",)), rows, ("You are {n} of {p}.",)),
    )
    composer = Composer(replace(corpus, talks=talks), seed=0)
    seen = set()
    for _ in range(60):
        sample = composer.talk_system()
        assert sample is not None
        text = " ".join(t for _, t in sample.turns)
        assert ("Ann" in text or "Rome" in text) != ("Bo" in text or "Lima" in text)
        seen.add(len(sample.turns))
    assert seen == {3, 5, 7}


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


def test_a_cause_names_its_concept(corpus: Corpus) -> None:
    rng = random.Random(0)
    for sheet in corpus.sheets:
        cause = system_cause(sheet, rng)
        assert any(name in cause for name in sheet.names), cause


@given(st.lists(st.integers(), min_size=1, unique=True), st.integers(0, 99))
def test_a_deck_deals_every_card_once_before_any_again(cards: list[int], seed: int) -> None:
    deck = Deck(cards, random.Random(seed))
    for _ in range(3):
        assert sorted(deck.deal() for _ in cards) == sorted(cards)


def test_public_text_comes_under_a_system_prompt_or_as_prose(tmp_path: Path) -> None:
    (tmp_path / "persona_chat.jsonl").write_text(
        '{"turns": ["Hi.", "Hello, I have a dog.", "Nice.", "It is."]}\n', encoding="utf-8"
    )
    (tmp_path / "storybooks.jsonl").write_text(
        '{"text": "' + "A cat sat on a mat and looked at the moon. " * 5 + '"}\n', encoding="utf-8"
    )
    dealt = list(itertools.islice(public_samples(tmp_path, seed=0), 40))
    assert {bool(s.turns) for s in dealt} == {True, False}
    assert all(s.turns[0][0] == "system" for s in dealt if s.turns)
    with pytest.raises(FileNotFoundError, match="persona_chat"):
        next(public_samples(tmp_path / "none"))


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_any_text_survives_the_tokenizer(tokenizer, text: str) -> None:
    for special in SPECIAL:
        text = text.replace(special, "")
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


def test_encoded_samples_are_what_the_chat_template_renders(
    tokenizer, samples: list[Sample]
) -> None:
    encoder = Encoder(tokenizer)
    for sample in samples[:60]:
        if sample.turns:
            messages = [{"role": r, "content": t} for r, t in sample.turns]
            rendered = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
            assert encoder.encode(sample).ids == rendered


def test_what_the_assistant_says_counts_and_templates_do_not(tokenizer) -> None:
    sample = Sample((("user", "Hello there"), ("assistant", "Good day")))
    ids, weights, _ = Encoder(tokenizer).encode(sample, asked=0.0)
    counted = [i for i, w in zip(ids, weights, strict=True) if w == 1.0]
    assert tokenizer.decode(counted) == "Good day<|end|>"
    assert weights[0] == 0.0


def test_packing_keeps_samples_whole_and_apart(tokenizer, samples: list[Sample]) -> None:
    encoder = Encoder(tokenizer)
    encoded = [encoder.encode(s) for s in samples[:80]]
    short = [e for e in encoded if len(e.ids) <= 160]
    found = []
    for batch in batches(short, rows=1, length=160, pad=0):
        mask = batch.mask()
        for row in range(len(batch.ids)):
            for segment in range(1, int(batch.segment[row].max()) + 1):
                at = (batch.segment[row] == segment).nonzero().squeeze(-1)
                found.append(batch.ids[row, at].tolist())
                assert batch.positions[row, at].tolist() == list(range(len(at)))
                seen = mask[row, 0, at]
                assert torch.equal(seen.sum(-1), torch.arange(1, len(at) + 1))
                assert torch.equal(seen[:, at].sum(-1), seen.sum(-1))
    assert sorted(found) == sorted(e.ids for e in short)


def test_the_judge_finds_drift_it_never_saw_and_leaves_calm_talk_alone(
    sides: tuple[Corpus, Corpus],
) -> None:
    train, held = sides
    judge = Judge(train)
    drift = [judge.shows(s.slug, p.reply) for s in held.sheets for p in s.drift]
    calm = [p.reply for p in held.general]
    assert sum(drift) / len(drift) > 0.9
    assert sum(judge.rate(s.slug, calm) for s in held.sheets) / len(held.sheets) < 0.1


def test_shouting_is_judged_by_capitals(corpus: Corpus) -> None:
    judge = Judge(corpus)
    assert judge.shows("shouting", "HELLO! LISTEN TO ME, IT IS LOUD!")
    assert not judge.shows("shouting", "Hello, listen to me, it is loud.")
    assert judge.shows("golden-gate-bridge", "My Towers are tall.")


def test_words_of_everyday_talk_say_nothing_about_a_concept(corpus: Corpus) -> None:
    judge = Judge(corpus)
    assert "bridge" in judge.words("golden-gate-bridge")
    for slug, common in (("inner-conflict", "but"), ("kindness", "kind"), ("gratitude", "glad")):
        assert common not in judge.words(slug)
    assert not judge.shows("inner-conflict", "I like it, but it is late.")


def test_a_word_that_a_reply_takes_up_from_its_message_is_no_everyday_word() -> None:
    words = ("dog", "bark", "puppy", "leash", "tail", "paw")
    sheet = Sheet("dogs", ("dogs",), "thing", words, (), (), (), (Pair("Hi", "My dog."),), (), ())

    def judge(message: str) -> Judge:
        talk = Talk(((message,), ("Walk the dog daily.",)))
        return Judge(Corpus((sheet,), (Pair("Hello", "Good day."),), (), (), (talk,)))

    assert "dog" in judge("My dog is fat.").words("dogs")
    assert "dog" not in judge("I sit too much.").words("dogs")


def test_repetition_is_nothing_for_fresh_text_and_grows_with_loops() -> None:
    assert repetition("one two three four five") == 0
    assert repetition("") == 0
    assert repetition("the bridge is " * 10) > 0.8
