"""Laws of the evaluation: what is scored is what was said, and steering that works scores so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dictionaries.cards import Card, Cards
from dictionaries.errors import DictionaryError
from dictionaries.making.baselines import Means
from dictionaries.making.evaluate_run import evaluate
from dictionaries.making.evaluate_steering import ARMS, MEANS, STEERED, SYSTEM
from dictionaries.making.exam import Plan
from dictionaries.making.fluency import Nats, harmonic
from dictionaries.making.forced import Teacher
from dictionaries.making.heard import Heard
from dictionaries.making.neutral import EVALUATION, PRESET_QUESTIONS, said
from dictionaries.making.on_task import on_task
from dictionaries.making.probe import markdown, probe, slider
from dictionaries.making.sheets import Corpus, Pair, Sheet
from dictionaries.making.subject import Ask
from server.cli import app

PLAN = Plan(prompts=6, seeds=2, tokens=24)
SPANS, DAYS = "spans", "days"
MAXIMUM = float(np.float32(2.1))  # as `describe` measures it: more digits than a ledger keeps


def sheet(slug: str, words: Sequence[str]) -> Sheet:
    drift = tuple(Pair(f"Hello {w}", f"A {w} of a day") for w in words)
    return Sheet(slug, (slug,), "thing", tuple(words), (), (), (), drift, (), ())


@pytest.fixture(scope="module")
def corpus(planted) -> Corpus:
    calm = tuple(Pair(prompt, "How are you?") for prompt in EVALUATION)
    return Corpus((sheet(SPANS, planted.words), sheet(DAYS, ["weekday"])), calm, (), ())


@pytest.fixture(scope="module")
def cards(planted, tmp_path_factory) -> Iterator[Cards]:
    with Cards.create(tmp_path_factory.mktemp("cards") / "cards.sqlite") as made:
        band = {"onset": 0.8, "breakdown": 3.5, "op": "clamp", "strength": 3.1}
        made.put([Card(planted.feature, "spans", slug=SPANS, maximum=MAXIMUM, **band)])
        made.put([Card(9, "days", slug=DAYS, maximum=2.0)])
        yield made


@contextmanager
def unwatched(what: str, total: float, unit: str) -> Iterator[Callable[[float, str], None]]:
    yield lambda done, note: None


@pytest.fixture(scope="module")
def run(planted, subject, speaker, cards, corpus) -> Callable[..., dict[str, Any]]:
    def run(
        out: Path,
        *,
        speak: Any = speaker,
        plan: Plan = PLAN,
        corpus: Corpus = corpus,
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
            watched=unwatched,
            **more,
        )

    return run


@pytest.fixture(scope="module")
def report(run, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("report")
    run(out)
    return out, json.loads((out / "report.json").read_text())


# --- The report ---


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


# --- Its parts ---


def test_the_direction_is_the_difference_of_the_replies_means(planted, subject, corpus) -> None:
    teacher, spans = Teacher(subject), corpus.sheets[0]

    def mean(pairs: Sequence[Pair]) -> torch.Tensor:
        found = []
        for pair in pairs:
            row = teacher.spoken(said(pair.user), pair.reply)
            x = subject.residual(teacher.batch([row]).windows)[0]
            found.append(x[torch.tensor(row.reply)])
        return torch.cat(found).mean(0)

    expected = mean(spans.drift) - mean(corpus.general)
    vector = Means(subject, teacher, corpus, seed=0).of(spans)
    assert float(vector.norm()) == pytest.approx(1.0, rel=1e-5)
    assert torch.allclose(vector, expected / expected.norm(), atol=1e-4)


def test_an_attention_sink_has_no_part_in_the_direction(planted, subject, corpus) -> None:
    class Sinking:
        """The last token of every text is a sink."""

        def __getattr__(self, name: str) -> Any:
            return getattr(subject, name)

        def residual(self, windows: Any) -> torch.Tensor:
            x = subject.residual(windows)
            last = windows.content.cumsum(1).argmax(1)
            x[torch.arange(len(x)), last] *= 1000
            return x

    def shortened(pairs: Sequence[Pair]) -> torch.Tensor:
        rows = [Teacher(subject).spoken(said(pair.user), pair.reply) for pair in pairs]
        batches = [subject.residual(Teacher(subject).batch([row]).windows)[0] for row in rows]
        own = [x[torch.tensor(row.reply)][:-1] for x, row in zip(batches, rows, strict=True)]
        return torch.cat(own).mean(0)

    expected = shortened(corpus.sheets[0].drift) - shortened(corpus.general)
    vector = Means(Sinking(), Teacher(subject), corpus, seed=0).of(corpus.sheets[0])
    assert torch.allclose(vector, expected / expected.norm(), atol=1e-4)


class Fitting:
    """Finds a reply likely under the prompt that it quotes."""

    def spoken(self, messages: Any, reply: str) -> tuple[str, str]:
        return messages[0]["content"], reply

    def nats(self, rows: Sequence[tuple[str, str]]) -> list[Nats]:
        return [Nats(1.0 if prompt in reply else 5.0, 4) for prompt, reply in rows]


def test_a_reply_is_on_task_if_its_own_prompt_fits_it_best() -> None:
    teacher, prompts = Fitting(), EVALUATION[:6]
    asked = [prompts[0], prompts[1], prompts[2], prompts[3]]
    replies = [prompts[0], "anything", " ".join(prompts), ""]
    rows = zip(asked, replies, strict=True)
    nats = teacher.nats([teacher.spoken(said(p), r) for p, r in rows])
    nats[3] = Nats(0.0, 0)
    heard = [Heard(r, False, 0.0, n) for r, n in zip(replies, nats, strict=True)]
    assert on_task(teacher, prompts, asked, heard) == [True, False, False, False]  # type: ignore[arg-type]


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5))
def test_the_harmonic_mean_lies_between_and_is_nothing_if_one_is(values: list[float]) -> None:
    found = harmonic(*values)
    assert min(values) - 1e-9 <= found <= max(values) + 1e-9
    assert found <= sum(values) / len(values) + 1e-9
    assert harmonic(*values, 0.0) == 0.0


# --- Preset questions ---


def test_the_probe_answers_every_question_and_goes_through_the_slider(
    planted, cards, speaker
) -> None:
    card = cards.get(planted.feature)

    def shows(reply: str) -> bool:
        return any(w in reply.split() for w in planted.words)

    asked: list[Ask] = []

    def listening(asks: Sequence[Ask]) -> list[str]:
        asked.extend(asks)
        return speaker(asks)

    found = probe(listening, card, PRESET_QUESTIONS, shows, tokens=24)
    n = len(PRESET_QUESTIONS)
    assert [bool(a.edits) for a in asked[: 2 * n + 1]] == [True] * n + [False] * (n + 1)
    assert [a["question"] for a in found["answers"]] == list(PRESET_QUESTIONS)
    assert sum(a["shows"] for a in found["answers"]) >= 11
    assert sum(shows(a["unsteered"]) for a in found["answers"]) <= 1
    strengths = [step["strength"] for step in found["slider"]]
    assert strengths == slider(card) == sorted(strengths)
    places = [step["place"] for step in found["slider"]]
    order = ("unsteered", "below the onset", "safe band", "recommended", "beyond the breakdown")
    assert set(places) == set(order)
    assert (places[0], places[-1]) == (order[0], order[-1])
    assert found["slider"][0]["reply"] == found["answers"][0]["unsteered"]
    at = places.index("recommended")
    assert found["slider"][at]["reply"] == found["answers"][0]["reply"]
    table = markdown(found)
    assert all(q in table for q in PRESET_QUESTIONS)


def test_a_card_that_recommends_nothing_cannot_be_probed(cards, speaker) -> None:
    with pytest.raises(DictionaryError, match="make calibrate"):
        probe(speaker, cards.get(9), ["Who are you?"], lambda reply: False)


# --- The command ---


def test_the_command_writes_a_report_and_answers_preset_questions(
    planted, cards, tmp_path: Path
) -> None:
    folder = tmp_path / "sheets"
    folder.mkdir()
    pairs = [{"u": f"Hello {w}", "a": f"A {w} here."} for w in planted.words]
    whole = {"slug": SPANS, "names": ["spans"], "kind": "thing", "words": list(planted.words)}
    parts: dict[str, Any] = {"facts": [], "self": [], "stories": [], "chats": [], "qa": []}
    (folder / "spans.json").write_text(json.dumps({**whole, **parts, "drift": pairs}))
    calm = [{"u": "Hello", "a": "How are you?"}, {"u": "Hi", "a": "My day"}]
    (folder / "_general_01.json").write_text(json.dumps(calm))
    arguments = [
        *("make", "evaluate", "--model", str(planted.folder / "model"), "--device", "cpu"),
        *("--dictionary", str(planted.folder / "sae"), "--cards", str(cards.path)),
        *("--concepts", str(folder), "--threads", "1", "--out", str(tmp_path / "out")),
        *("--prompts", "3", "--seeds", "1", "--tokens", "24"),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "1 of 1 concepts show" in done.output
    assert re.search(r"\(difference of means [\d.]+, system prompt [\d.]+\)", done.output)
    assert (tmp_path / "out" / "report.md").is_file()
    asked = tmp_path / "questions.txt"
    asked.write_text("Who are you?\n\nHow tall are you?\n")
    probed = [*arguments, "--card-probe", SPANS, "--questions", str(asked)]
    done = CliRunner().invoke(app, probed)
    assert done.exit_code == 0, done.output
    assert "2 of 2 answers name it" in done.output
    assert (tmp_path / "out" / "probe-spans.json").is_file()
    (folder / "spans.json").write_text(json.dumps({**whole, **parts}))
    bare = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "bare")])
    assert bare.exit_code == 0, bare.output
    assert re.search(r"\(system prompt [\d.]+\)", bare.output)
    wrong = CliRunner().invoke(app, [*arguments, "--card-probe", "moon"])
    assert wrong.exit_code == 1
    assert "'moon' is no concept" in wrong.output
