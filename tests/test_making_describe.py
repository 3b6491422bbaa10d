"""`steerdeck make describe`: cards, their lens and their concepts, against brute force."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import making_described
import numpy as np
import pytest
import torch
from making_described import DEAD, text
from safetensors.torch import load_file

from dictionaries.making.concept_sheets import labelled, read_concepts
from dictionaries.making.describe_all import read_corpus
from dictionaries.making.exemplars import AFTER, BEFORE, INTERVALS, STRONGEST
from dictionaries.making.matching import LEVELS
from dictionaries.making.output_score import score
from dictionaries.making.subject import Windows
from dictionaries.making.text import encoded, padded
from dictionaries.making.token_text import TokenTexts

sae, model = making_described.sae, making_described.model  # fixtures
subject, reading = making_described.subject, making_described.reading  # fixtures
sheets, made = making_described.sheets, making_described.made  # fixtures
brute = making_described.brute  # fixture
many_blocks = making_described.many_blocks  # fixture: every test has it, unasked


def test_every_live_feature_has_a_card_and_no_dead_one(made, brute):
    live = np.flatnonzero((brute.f > 0).any(0)).tolist()
    assert sorted(made[1]) == live
    assert not set(DEAD) & set(live)
    assert len(live) > 40


def test_density_maximum_and_histogram_are_those_of_all_activations(made, brute):
    for i, card in made[1].items():
        fires = brute.f[:, i][brute.f[:, i] > 0]
        assert card.density == len(fires) / len(brute.f)
        assert card.maximum == fires.max()
        counts, _ = np.histogram(fires, bins=np.array(card.histogram.edges))
        assert card.histogram.counts == tuple(counts)
        assert 16 <= len(counts) <= 32
        assert card.histogram.edges[-1] == card.maximum


def test_the_strongest_examples_are_the_strongest_documents_that_differ(made, brute):
    for i, card in made[1].items():
        best: dict[tuple[int, ...], float] = {}
        for value, document, token in brute.peaks(i):
            before = brute.before(document, token)
            best[before] = max(value, best.get(before, 0.0))
        wanted = sorted(best.values(), reverse=True)[:STRONGEST]
        shown = [
            max(e.activations)
            for e in card.examples
            if e.interval[1] == card.examples[0].interval[1]
        ]
        assert shown[: len(wanted)] == pytest.approx(wanted, rel=1e-3)
        assert card.examples[0].interval == pytest.approx((wanted[-1], wanted[0]), rel=1e-3)


def test_each_interval_of_activation_shows_one_document_of_its_own(made, brute):
    shown = 0
    for i, card in made[1].items():
        top = 2.0 ** np.frexp(card.maximum)[1]
        strongest = {e.activations for e in card.examples[:STRONGEST]}
        drawn = card.examples[STRONGEST:]
        filled = {int(value * INTERVALS / top) for value, _, _ in brute.peaks(i)}
        named = [round(e.interval[0] * INTERVALS / top) for e in drawn]
        assert named == sorted(set(named), reverse=True)
        assert set(named) <= filled
        for e in drawn:
            assert e.interval[0] * (1 - 1e-3) <= max(e.activations) <= e.interval[1] * (1 + 1e-3)
            assert e.activations not in strongest
        weak = int(card.examples[0].interval[0] * INTERVALS / top)
        assert {at for at in filled if at < weak} == {at for at in named if at < weak}
        shown += len(drawn)
    assert shown > 2 * len(made[1])


def test_an_example_is_a_stretch_of_its_document_with_every_tokens_activation(
    made, brute, tokenizer
):
    texts = TokenTexts(tokenizer)
    stretches = Counter()
    for document, (a, b) in enumerate(zip(brute.first, brute.first[1:], strict=False)):
        for token in range(a, b):
            span = range(max(a, token - BEFORE), min(b, token + AFTER + 1))
            stretches[token] = (document, span)
    for i, card in list(made[1].items())[::9]:
        possible = {}
        for _, _, token in brute.peaks(i):
            span = stretches[token][1]
            said = "".join(texts(int(brute.ids[t])) for t in span)
            possible[said, tuple(float(f"{brute.f[t, i]:.4g}") for t in span)] = token
        for e in card.examples:
            assert ("".join(e.tokens).replace("\n", ""), e.activations) in possible


def test_documents_are_numbered_through_all_batches(reading, brute, tmp_path):
    tally = read_corpus(reading, partial(text, reading.subject.tokenizer), tmp_path / "tally")
    assert tally.state["rows"] == len(brute.documents)
    for i in range(5, 64, 7):
        by_document = {document: value for value, document, _ in brute.peaks(i)}
        for kept in tally.exemplars.of(i, float(tally.maximum[i])):
            assert by_document[kept.document] == kept.values[kept.peak]


def test_an_attention_sink_fires_nothing_and_stays_in_the_text(reading, subject, brute, tmp_path):
    class Sinking:
        """Where nothing stands before a text, its first token is a sink."""

        tokenizer = subject.tokenizer

        def residual(self, windows: Windows) -> torch.Tensor:
            x = subject.residual(windows)
            x[torch.arange(len(x)), windows.content.int().argmax(1)] *= 1000
            return x

    sunk, source = replace(reading, subject=Sinking()), partial(text, subject.tokenizer)
    tally = read_corpus(sunk, source, tmp_path / "tally")
    words = np.ones(len(brute.f), bool)
    words[brute.first[:-1]] = False
    assert tally.state["tokens"] == len(brute.f)
    assert tally.maximum == pytest.approx(brute.f[words].max(0))
    assert tally.fired.tolist() == (brute.f[words] > 0).sum(0).tolist()
    live = np.flatnonzero(tally.fired)
    shown = [kept for i in live for kept in tally.exemplars.of(i, float(tally.maximum[i]))]
    begins = brute.ids[brute.first[:-1]]
    assert any(kept.peak > 0 and kept.ids[0] == begins[kept.document] for kept in shown)


def test_a_break_in_the_text_is_shown_as_one(made):
    said = {"".join(e.tokens) for card in made[1].values() for e in card.examples}
    assert "fog?\nred fog" in said, "between the turns of a chat"


def test_the_lens_and_the_output_score_are_the_papers(made, model, tokenizer, sae):
    """By hand: hooks of its own, matrices from the file, ranks by sorting."""
    weights = load_file(sae.path / "sae_weights.safetensors")
    ids = torch.tensor([tokenizer("From my experience,")["input_ids"]])
    layer = model.model.layers[1]
    x = model(input_ids=ids, output_hidden_states=True).hidden_states[2]
    strength = 10 * float(sae.encode(x[0, -1:]).max())
    for i in made[1]:
        lens = (weights["W_dec"][i] * model.model.norm.weight) @ model.lm_head.weight.T
        promised = lens.argsort(descending=True)[:20]

        def push(_: Any, __: Any, output: Any, i: int = i) -> Any:
            y = output.clone()
            y[0, -1] += strength * weights["W_dec"][i]
            return y

        handle = layer.register_forward_hook(push)
        p = model(input_ids=ids).logits[0, -1].softmax(-1)
        handle.remove()
        order = p.argsort(descending=True).tolist()
        rank = min(order.index(t) for t in promised.tolist())
        score = (1 - rank / len(order)) * float(p[promised].max())
        card = made[1][i]
        assert card.output_score == pytest.approx(score, rel=2e-3, abs=1e-6)
        vocab = lens[: len(tokenizer)] - lens.mean()
        assert [v for _, v in card.promoted] == pytest.approx(vocab.topk(12)[0].tolist(), rel=1e-3)
        assert [v for _, v in card.suppressed] == pytest.approx(
            (-(-vocab).topk(12)[0]).tolist(), rel=1e-3
        )
        assert card.promoted[0][0] == tokenizer.decode([int(vocab.argmax())])
    scores = [card.output_score for card in made[1].values()]
    assert max(scores) > 5 * min(scores)


def test_the_output_score_falls_with_the_best_rank_of_the_promised_tokens():
    p = torch.tensor([[0.5, 0.1, 0.25, 0.15], [0.1, 0.7, 0.1, 0.1]])
    graded = score(p, torch.tensor([[1, 2], [1, 0]]))
    assert graded.tolist() == pytest.approx([(1 - 1 / 4) * 0.25, 0.7])


def test_neighbours_are_those_of_the_dictionary(made, sae):
    for i, card in made[1].items():
        wanted = sae.neighbours(i, 8)
        assert [n for n, _ in card.neighbours] == [n for n, _ in wanted]
        assert [c for _, c in card.neighbours] == pytest.approx([c for _, c in wanted], abs=1e-4)


def test_a_concepts_feature_precision_and_recall_are_what_counting_gives(
    made, reading, sheets, tokenizer
):
    known = read_concepts(sheets)
    slugs = [c.slug for c in known.concepts]
    told = json.loads((made[0].parent / "cards.sqlite.concepts.json").read_text())
    assert [row["slug"] for row in told["concepts"]] == slugs
    maximum = np.array([made[1][i].maximum if i in made[1] else 1e9 for i in range(64)])
    rows = []
    for one in labelled(known):
        (row,) = encoded([one.document], tokenizer, context=40)
        batch = padded([row], 0)
        f = reading.dictionary.encode(reading.subject.residual(batch)[batch.content])
        rows.append((one, f.max(0).values.numpy()))
    for c, row in enumerate(told["concepts"]):
        best = row["best"]
        mine = np.array([one.about == c for one, _ in rows])
        against = np.array([one.about == c or c not in one.named for one, _ in rows])
        scores = []
        for level in LEVELS:
            fires = np.array([peak > level * maximum for _, peak in rows])
            hit = fires[mine].sum(0)
            f1 = 2 * hit / (fires[against].sum(0) + mine.sum())
            scores.append((f1, hit / mine.sum(), hit / np.maximum(1, fires[against].sum(0))))
        at = LEVELS.index(best["level"])
        assert best["f1"] == pytest.approx(max(f1.max() for f1, _, _ in scores))
        f1, recall, precision = (s[best["feature"]] for s in scores[at])
        assert (best["f1"], best["recall"], best["precision"]) == pytest.approx(
            (f1, recall, precision)
        )
        assert best["texts"] == 12
    named = {card.slug: card for card in made[1].values() if card.labelled_by == "concept"}
    assert set(named) == set(slugs)
    assert named["stone-bridge"].label == "Stone Bridge"
    for row in told["concepts"]:
        assert named[row["slug"]].feature == row["labelled"]["feature"]
