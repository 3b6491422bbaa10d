"""Preset questions and the slider; and the command `steerdeck make evaluate`, which asks them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import making_evaluated
import pytest
from making_evaluated import SPANS
from typer.testing import CliRunner

from dictionaries.errors import DictionaryError
from dictionaries.making.neutral import PRESET_QUESTIONS
from dictionaries.making.probe import markdown, probe, slider
from dictionaries.making.subject import Ask
from server.cli import app

cards = making_evaluated.cards  # fixture


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
