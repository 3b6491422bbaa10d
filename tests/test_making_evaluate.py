"""Laws of the evaluation: what is scored is what was said, and steering that works scores so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import making_evaluated
import pytest
from making_evaluated import DAYS, MAXIMUM, SPANS

from dictionaries.errors import DictionaryError
from dictionaries.making.evaluate_run import evaluate
from dictionaries.making.evaluate_steering import ARMS, MEANS, STEERED, SYSTEM
from dictionaries.making.exam import Plan
from dictionaries.making.fluency import harmonic
from dictionaries.making.neutral import EVALUATION
from dictionaries.making.sheets import Corpus
from dictionaries.making.subject import Ask

corpus, cards = making_evaluated.corpus, making_evaluated.cards  # fixtures

PLAN = Plan(prompts=6, seeds=2, tokens=24)


@contextmanager
def unwatched(what: str, total: float, unit: str) -> Iterator[Callable[[float, str], None]]:
    yield lambda done, note: None


def watching(dones: list[float]) -> Callable[..., Any]:
    """Hears how many are done."""
    return lambda *_: nullcontext(lambda done, note: dones.append(done))


@pytest.fixture(scope="module")
def run(planted, subject, speaker, cards, corpus) -> Callable[..., dict[str, Any]]:
    def run(
        out: Path,
        *,
        speak: Any = speaker,
        plan: Plan = PLAN,
        corpus: Corpus = corpus,
        watched: Any = unwatched,
        **more: Any,
    ) -> dict[str, Any]:
        return evaluate(
            subject,
            speak,
            planted.dictionary,
            cards,
            corpus,
            out,
            plan=plan,
            watched=watched,
            **more,
        )

    return run


@pytest.fixture(scope="module")
def report(run, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("report")
    run(out)
    return out, json.loads((out / "report.json").read_text())


def test_a_feature_that_steers_shows_its_concept_always_and_unsteered_never(report) -> None:
    record = report[1]["concepts"][0]
    steered = record["arms"][STEERED]["scores"]
    assert record["key"] == SPANS
    assert steered["concept"] == 1.0
    assert record["unsteered"] <= 0.1
    assert steered["fluency"] > 0.6
    assert steered["harmonic"] > 0.5  # so small a model can hardly tell its prompts apart


def test_every_reply_is_in_the_report_and_the_scores_are_of_these_replies(planted, report) -> None:
    whole = report[1]
    asked = [(p, s) for s in range(PLAN.seeds) for p in EVALUATION[: PLAN.prompts]]
    for record in whole["concepts"]:
        for arm in record["arms"].values():
            scores, replies = arm["scores"], arm["replies"]
            assert [(r["prompt"], r["seed"]) for r in replies] == asked
            assert scores["concept"] == pytest.approx(_share(replies, "shows"))
            assert scores["on_task"] == pytest.approx(_share(replies, "on_task"))
            three = (scores["concept"], scores["fluency"], scores["on_task"])
            assert scores["harmonic"] == pytest.approx(2 * harmonic(*three), abs=1e-4)
    for reply in whole["concepts"][0]["arms"][STEERED]["replies"]:
        assert reply["shows"] == any(w in reply["reply"].split() for w in planted.words)
    assert [(r["prompt"], r["seed"]) for r in whole["unsteered"]["replies"]] == asked


def _share(replies: list[dict[str, Any]], key: str) -> float:
    return round(sum(r[key] for r in replies) / len(replies), 6)


def test_the_models_own_replies_are_fluent_and_more_on_task_than_chance(report) -> None:
    own = report[1]["unsteered"]
    assert own["fluency"] == pytest.approx(1.0)
    assert own["on_task"] > 1.5 * report[1]["chance_on_task"]


def test_a_concept_whose_card_recommends_nothing_is_not_steered_and_counts_as_nothing(
    report,
) -> None:
    _, days = report[1]["concepts"]
    assert STEERED not in days["arms"]
    assert {MEANS, SYSTEM} <= days["arms"].keys()
    found = report[1]["summary"]
    assert found[STEERED]["steered"] == 1
    assert found[STEERED]["works"] == 1
    first = report[1]["concepts"][0]["arms"][STEERED]["scores"]["harmonic"]
    assert found[STEERED]["harmonic"] == pytest.approx(first / 2)


def test_the_table_has_a_line_a_concept_with_the_reports_numbers(report) -> None:
    out, whole = report
    lines = (out / "report.md").read_text().splitlines()
    scores = whole["concepts"][0]["arms"][STEERED]["scores"]
    line = next(line for line in lines if line.startswith(f"| {SPANS} "))
    assert "clamp 3.1" in line
    assert f"| {scores['concept']:.2f} (" in line
    assert f"| {scores['harmonic']:.2f} |" in line
    assert any(line.startswith(f"| {DAYS} | 9 | none") for line in lines)
    widths = {line.count("|") for line in lines[-4:]}
    assert len(widths) == 1
    assert sum(line.startswith("| ") for line in lines) == 2 + len(ARMS) + 2


def test_an_evaluation_goes_on_and_is_made_anew_for_another_edit(
    run, cards, planted, speaker, tmp_path: Path
) -> None:
    small = Plan(prompts=3, seeds=1, tokens=8)
    run(tmp_path, plan=small, only=[SPANS])
    told: list[int] = []

    def counting(asks: Sequence[Ask]) -> list[str]:
        told.append(sum(bool(a.edits) for a in asks))
        return speaker(asks)

    first = (tmp_path / "report.json").read_bytes()
    run(tmp_path, plan=small, only=[SPANS], speak=counting)
    assert sum(told) == 0  # but for the calibration prompts, nothing is asked again
    assert (tmp_path / "report.json").read_bytes() == first
    card = cards.get(planted.feature)
    cards.put([replace(card, strength=1.0)])
    try:
        run(tmp_path, plan=small, only=[SPANS], speak=counting)
    finally:
        cards.put([card])
    assert sum(told) > 0
    edit = json.loads((tmp_path / "report.json").read_text())["concepts"][0]["edit"]
    assert edit["strength"] == 1.0
    assert "best of three (chance 0.33; " in (tmp_path / "report.md").read_text()
    with pytest.raises(DictionaryError, match=r"other settings \(tokens\)"):
        run(tmp_path, plan=replace(small, tokens=9), only=[SPANS])
    with pytest.raises(DictionaryError, match="no sheet for moon"):
        run(tmp_path, plan=small, only=["moon"])


def test_what_an_earlier_evaluation_did_is_told_at_once(run, tmp_path: Path) -> None:
    """The time left is by what is done after the first report."""
    first: list[float] = []
    again: list[float] = []
    for dones in (first, again):
        run(tmp_path, plan=Plan(prompts=2, seeds=1, tokens=8), watched=watching(dones))
    assert first == [0, 1, 2]
    assert again == [2]


def test_an_evaluation_is_made_anew_for_another_sheet_and_not_mixed_with_other_calm(
    run, corpus, tmp_path: Path
) -> None:
    small = Plan(prompts=2, seeds=1, tokens=8)
    run(tmp_path, plan=small, only=[DAYS])

    def rated(corpus: Corpus) -> float:
        run(tmp_path, plan=small, only=[DAYS], corpus=corpus)
        (record,) = json.loads((tmp_path / "report.json").read_text())["concepts"]
        return record["unsteered"]

    assert rated(corpus) == 0.0
    spans, days = corpus.sheets
    said = json.loads((tmp_path / "report.json").read_text())["unsteered"]["replies"]
    heard = tuple(word for told in said for word in told["reply"].split())
    assert rated(replace(corpus, sheets=(spans, replace(days, words=heard)))) == 1.0
    with pytest.raises(DictionaryError, match=r"other settings \(calm\)"):
        rated(replace(corpus, general=corpus.general[1:]))


def test_a_sheet_without_drift_is_left_out_of_the_difference_of_means(
    run, corpus, tmp_path: Path
) -> None:
    small = Plan(prompts=2, seeds=1, tokens=8)
    spans, days = corpus.sheets
    bare = replace(corpus, sheets=(spans, replace(days, drift=())))
    found = run(tmp_path / "one", plan=small, corpus=bare)
    first, second = json.loads((tmp_path / "one" / "report.json").read_text())["concepts"]
    assert (MEANS in first["arms"], MEANS in second["arms"]) == (True, False)
    assert found[MEANS]["concepts"] == 1
    assert found[MEANS]["fluency"] == first["arms"][MEANS]["scores"]["fluency"]
    assert found[STEERED]["concepts"] == found[SYSTEM]["concepts"] == 2
    lines = (tmp_path / "one" / "report.md").read_text().splitlines()
    assert len({line.count("|") for line in lines[-4:]}) == 1
    without_calm = replace(bare, general=())
    found = run(tmp_path / "two", plan=small, corpus=without_calm, only=[DAYS])
    assert MEANS not in found
    assert "difference of means" not in (tmp_path / "two" / "report.md").read_text()


def test_means_without_calm_text_are_refused_before_the_model_is_asked(
    run, corpus, tmp_path: Path
) -> None:
    with pytest.raises(DictionaryError, match=r"holds no calm text.*_general_01\.json"):
        run(tmp_path / "out", corpus=replace(corpus, general=()), speak=None)
    assert not (tmp_path / "out").exists()


def test_every_arm_is_asked_the_same_with_the_same_seeds(run, speaker, tmp_path: Path) -> None:
    heard: list[list[Ask]] = []

    def listening(asks: Sequence[Ask]) -> list[str]:
        heard.append(list(asks))
        return speaker(asks)

    run(tmp_path, plan=Plan(prompts=3, seeds=2, tokens=8), only=[SPANS], speak=listening)
    arms = [asks for asks in heard if len(asks) == 6 and asks[0].max_tokens == 8]
    assert len(arms) == 4
    plain, steered, pushed, prompted = arms
    for asks in arms:
        assert [a.seed for a in asks] == [a.seed for a in plain]
        assert [a.messages[-1] for a in asks] == [a.messages[-1] for a in plain]
    assert all(len(a.messages) == 1 for a in (*plain, *steered, *pushed))
    assert all(SPANS in a.messages[0]["content"] for a in prompted)
    assert not any(a.edits for a in (*plain, *prompted))
    assert {a.edits[0].strength for a in steered} == {3.1 * MAXIMUM}
    assert all(a.edits[0].vector is not None for a in pushed)
