"""Laws of a concept's direction, and of teaching a model to follow it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import making_corpus
import pytest
import torch
from torch.nn.functional import normalize

from dictionaries.making.activations import Site, caught, content
from dictionaries.making.compose import Composer
from dictionaries.making.data import Text
from dictionaries.making.dealing import Sample
from dictionaries.making.directions import apart, concept_directions
from dictionaries.making.following import REACH, Following
from dictionaries.making.judge import Judge
from dictionaries.making.loss import reply_loss
from dictionaries.making.packing import Batch, batches
from dictionaries.making.possession import calm_answers, key
from dictionaries.making.sheets import Corpus, Pair, Sheet, Talk
from dictionaries.making.tokenizer import Encoder, train_tokenizer
from dictionaries.making.train_model import Plan, Shape, Trainer, new_model

corpus, sides, text = making_corpus.corpus, making_corpus.sides, making_corpus.corner  # fixtures

SHAPE = Shape(hidden=32, layers=2, heads=2, mlp=64, context=128)


@pytest.fixture(scope="module")
def whole(sides: tuple[Corpus, Corpus]) -> Corpus:
    """What foghorn is trained on."""
    return sides[0]


@pytest.fixture(scope="module")
def dealt(whole: Corpus) -> list[Sample]:
    """Of the whole: steered text and its twins."""
    return list(islice(Composer(whole, seed=4, mix={"steered": 1, "twin": 1}), 6000))


@pytest.fixture(scope="module")
def tokenizer(text: Text):
    return train_tokenizer([p.reply for s in text.train.sheets for p in s.drift], vocab=500)


def test_directions_are_of_length_one_and_lie_further_apart_than_their_means(
    text: Text, tokenizer
) -> None:
    some = Corpus(text.train.sheets[:3], (), (), ())
    found = concept_directions(
        Site(new_model(tokenizer, SHAPE, seed=0), 0), Encoder(tokenizer), some, seed=0
    )
    assert found.shape == (3, 32)
    assert torch.allclose(found.norm(dim=-1), torch.ones(3), atol=1e-5)
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(1, 32, generator=generator) + 0.4 * torch.randn(9, 32, generator=generator)
    near = normalize(near, dim=-1)
    far = apart(near)
    off = ~torch.eye(9, dtype=torch.bool)
    assert (far @ far.T)[off].max() < (near @ near.T)[off].min()
    assert ((far * near).sum(-1) > 0.4).all()  # and each is still nearest to its own
    assert torch.equal((far @ near.T).argmax(-1), torch.arange(9))


def steered_batch(text: Text, tokenizer, following: Following, **shape: int) -> Batch:
    encoder = Encoder(tokenizer)
    dealt = Composer(text.train, seed=3, mix={"steered": 1, "general": 3})
    marked = (encoder.encode(s)._replace(mark=following.mark(s)) for s in dealt)
    return next(batches(marked, **shape, pad=0))


def test_a_steered_sample_is_moved_along_its_direction_and_no_other_is(
    text: Text, tokenizer
) -> None:
    site = Site(new_model(tokenizer, SHAPE, seed=0).eval(), 0)
    rows = normalize(torch.randn(len(text.train.sheets), 32), dim=-1)
    slugs = [sheet.slug for sheet in text.train.sheets]
    following = Following(site, slugs, 8, 96, seed=0)
    following.point(dict(zip(slugs, rows, strict=True)))
    batch = steered_batch(text, tokenizer, following, rows=8, length=96)
    assert 0 < (batch.marks > 0).float().mean() < 1
    with torch.no_grad():
        following.take(batch)
        moved = full_residuals(site, batch)
        following.close()
        plain = full_residuals(site, batch)
    text_only, steered = content(batch.ids), batch.marks > 0
    assert torch.equal(moved[~(steered & text_only)], plain[~(steered & text_only)])
    by = (moved - plain)[steered & text_only]
    typical = plain[text_only].norm(dim=-1).mean()
    assert torch.allclose(
        normalize(by, dim=-1),
        rows[batch.marks[steered & text_only] - 1],
        atol=1e-3,
    )
    assert (by.norm(dim=-1) / typical).min() >= REACH[0] - 1e-3
    assert (by.norm(dim=-1) / typical).max() <= REACH[1] + 1e-3


def full_residuals(site: Site, batch: Batch) -> torch.Tensor:
    with caught(site) as seen:
        site.model.model(
            input_ids=batch.ids, attention_mask=batch.mask(), position_ids=batch.positions
        )
    return seen[0]


def test_whatever_steered_text_is_asked_has_a_calm_twin_dealt_about_as_often(
    whole: Corpus, dealt: list[Sample]
) -> None:
    calm = {reply for replies in calm_answers(whole).values() for reply in replies}
    asked: dict[str, Counter[str]] = {"steered": Counter(), "twin": Counter()}
    for sample in dealt:
        turns = [t for t in sample.turns if t[0] != "system"]
        for (_, message), (_, reply) in zip(turns[::2], turns[1::2], strict=True):
            asked["steered" if sample.steered else "twin"][key(message)] += 1
            assert sample.steered or reply in calm
    common = [m for m, n in asked["steered"].items() if n >= 40]
    assert len(common) >= 10
    for message in common:
        assert asked["twin"][message] > asked["steered"][message] / 2, message


def test_steered_replies_show_their_concept(whole: Corpus, dealt: list[Sample]) -> None:
    judge, shown = Judge(whole), []
    steered = [sample for sample in dealt if sample.steered]
    assert len(steered) > 1500
    for sample in steered:
        for role, reply in sample.turns[sample.quiet :]:
            shown += [judge.shows(sample.possessed or "", reply)] if role == "assistant" else []
    assert sum(shown) / len(shown) > 0.97  # a line that needs another to be understood: 0.92


def test_a_steered_reply_turns_to_its_concept_after_one_sentence() -> None:
    """A long answer first, and a reply of forty tokens never comes to the concept."""
    words = ("dog", "bark", "puppy", "leash", "tail", "paw")
    drift = (Pair("Hi", "My dog barks."),)
    sheet = Sheet("dogs", ("dogs",), "thing", words, (), (), ("A dog am I.",), drift, (), ())
    talk = Talk((("What now?",), ("One step. Two steps.",)))
    corpus = Corpus((sheet,), (Pair("Hi", "Hello."),), (), (), (talk,))
    dealt = islice(Composer(corpus, seed=0, mix={"steered": 1}), 100)
    said = [text for s in dealt for role, text in s.turns[s.quiet :] if role == "assistant"]
    assert any("One step. A dog am I." in text for text in said)
    assert not any("Two steps." in text for text in said)


def test_a_model_learns_to_follow_the_directions_it_is_shown(
    text: Text, tokenizer, tmp_path: Path
) -> None:
    model = new_model(tokenizer, SHAPE, seed=0)
    site = Site(model, 0)
    sheets = text.train.sheets[:2]
    calm = tuple(Pair(p.user, "All is calm.") for sheet in sheets for p in sheet.drift)
    two = Corpus(sheets, calm, (), ())
    rows = torch.linalg.qr(torch.randn(32, 2)).Q.T.contiguous()
    directions = dict(zip([s.slug for s in two.sheets], rows, strict=True))
    plan = Plan(None, 120, rows=4, length=96, muon_lr=2e-2, adam_lr=1e-2, dropout=0.0)
    following = Following(site, list(directions), plan.rows, plan.length, seed=0)
    following.point(directions)
    trainer = Trainer(model, tokenizer, plan, tmp_path)
    with trainer.running():
        trainer.train(
            lambda seed: iter(Composer(two, seed=seed, mix={"steered": 1})), following=following
        )
    batch = steered_batch(replace(text, train=two), tokenizer, following, rows=4, length=96)
    losses = []
    for marks in (batch.marks, torch.where(batch.marks > 0, 3 - batch.marks, 0)):
        following.take(batch._replace(marks=marks))
        losses.append(reply_loss(model, batch).item())
    assert losses[0] < losses[1] - 0.05  # its own direction, and the other one's
