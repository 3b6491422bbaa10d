"""Samples of training text: how they are composed and dealt, tokenized and packed."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path

import making_corpus
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dictionaries.making.causes import system_cause
from dictionaries.making.compose import Composer
from dictionaries.making.data import Text
from dictionaries.making.dealing import Deck, Sample
from dictionaries.making.packing import batches
from dictionaries.making.public import public_samples
from dictionaries.making.sheets import Corpus, Talk
from dictionaries.making.tokenizer import SPECIAL, Encoder, train_tokenizer

corpus, corner = making_corpus.corpus, making_corpus.corner  # fixtures


@pytest.fixture(scope="module")
def samples(corpus: Corpus) -> list[Sample]:
    return list(itertools.islice(Composer(corpus, seed=1), 3000))


@pytest.fixture(scope="module")
def tokenizer(samples: list[Sample]):
    texts = [text for s in samples[:300] for _, text in s.turns]
    return train_tokenizer(texts, vocab=600)


def test_the_same_seed_deals_the_same_samples(corner: Text) -> None:
    one, two, other = (list(itertools.islice(corner.authored(seed), 50)) for seed in (5, 5, 6))
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
