"""Calibration of a cards file: bands and curves are kept, a stopped run goes on, the command."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import planted_judge
import pytest
from planted_judge import corpus
from typer.testing import CliRunner

from dictionaries.cards import Card, Cards
from dictionaries.errors import DictionaryError
from dictionaries.making.calibrate_cards import Plan, calibrate_cards, chosen, curves_file
from dictionaries.making.judge import Judge
from dictionaries.making.ledger import Ledger
from dictionaries.making.neutral import CALIBRATION
from server.cli import app

judge = planted_judge.judge  # fixture


@pytest.fixture
def cards(planted, tmp_path: Path) -> Iterator[Cards]:
    with Cards.create(tmp_path / "cards.sqlite") as made:
        names = {planted.feature: "spans"}
        made.put(
            Card(i, f"feature {i}", slug=names.get(i), maximum=2.0, output_score=i / 40)
            for i in range(20)
        )
        made.put([Card(30, "never fired"), Card(31, "dead", maximum=0.0)])
        yield made


def test_features_are_chosen_by_words(cards: Cards, judge: Judge) -> None:
    assert chosen(cards, "concepts", judge) == [5]
    assert chosen(cards, "top:3") == [19, 18, 17]
    assert chosen(cards, "3,17,3") == [3, 17]
    assert chosen(cards, "all") == list(range(20))
    with pytest.raises(DictionaryError, match="top:N"):
        chosen(cards, "best")
    with pytest.raises(DictionaryError, match="make describe"):
        chosen(cards, "30,31")
    with pytest.raises(DictionaryError, match="no card with a maximum for 30, 99: leave them out"):
        chosen(cards, "3,30,17,99")
    with pytest.raises(DictionaryError, match="sheets"):
        chosen(cards, "concepts", None)


QUICK = Plan(prompts=4, tokens=16, settling=3)


def test_bands_go_onto_the_cards_and_curves_beside_them(
    cards: Cards, planted, subject, speaker, judge
) -> None:
    before = cards.get(planted.feature)
    outcome = calibrate_cards(
        subject, speaker, planted.dictionary, cards, [5, 9], judge=judge, plan=QUICK
    )
    card = cards.get(planted.feature)
    assert (outcome.asked, outcome.fresh) == (2, 2)
    assert card.onset <= card.strength < card.breakdown
    assert replace(card, onset=None, breakdown=None, op=None, strength=None) == before
    lines = [json.loads(line) for line in curves_file(cards.path).read_text().splitlines()]
    settings, gauge, *records = lines
    assert settings["settings"]["tokens"] == 16
    assert gauge["unsteered"].keys() == set(CALIBRATION[:4])
    assert [(r["key"], r["concept"]) for r in records] == [("5", "spans"), ("9", None)]
    record = records[0]
    strengths = [p["strength"] for p in record["curve"]]
    assert strengths == sorted(strengths)
    assert strengths[0] < record["band"]["onset"] < strengths[-1]
    assert record["band"]["strength"] == pytest.approx(card.strength, rel=1e-3)
    settling = {(r["op"], r["strength"]): r for r in record["settling"]}
    assert settling[record["band"]["op"], record["band"]["strength"]]["replies"] == 3


def test_a_stopped_calibration_goes_on_and_a_finished_one_measures_nothing(
    cards: Cards, planted, subject, speaker, judge, monkeypatch
) -> None:
    monkeypatch.setattr("dictionaries.making.calibrate_cards._CHUNK", 1)

    def run(
        features: list[int],
        told: Any = lambda *_: None,
        speak: Any = speaker,
        judge: Judge = judge,
    ) -> Any:
        return calibrate_cards(
            subject, speak, planted.dictionary, cards, features, judge=judge, plan=QUICK, told=told
        )

    def stop(done: int, steerable: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([5, 9], stop)
    assert cards.get(5).strength is not None
    cards.put([replace(cards.get(5), strength=None, op=None)])  # as if killed before the card
    assert run([5, 9]).fresh == 1
    assert cards.get(5).strength is not None

    def silent(asks: Any) -> Any:
        raise AssertionError("asked again")

    assert run([5, 9], speak=silent)[:2] == (2, 0)
    other = Judge(corpus(["other", *planted.words]))  # its sheet was edited since
    assert run([5, 9], judge=other).fresh == 1
    cards.put([replace(cards.get(9), maximum=3.0)])  # described anew: its unit is another
    assert run([9]).fresh == 1
    with pytest.raises(DictionaryError, match=r"other settings \(tokens\)"):
        calibrate_cards(
            subject, speaker, planted.dictionary, cards, [5], plan=replace(QUICK, tokens=17)
        )


def test_before_it_begins_each_card_is_read_once_and_without_its_examples(
    cards: Cards, planted, subject, speaker, judge, monkeypatch
) -> None:
    """A file may have millions."""
    calibrate_cards(subject, speaker, planted.dictionary, cards, [5, 9], judge=judge, plan=QUICK)
    read: list[tuple[int, bool]] = []
    plain = Cards.get

    def counted(self: Cards, feature: int, *, examples: bool = True) -> Card | None:
        read.append((feature, examples))
        return plain(self, feature, examples=examples)

    monkeypatch.setattr(Cards, "get", counted)
    chosen(cards, "all", judge)
    assert read == [], "their pages say it all"
    again = calibrate_cards(
        subject, speaker, planted.dictionary, cards, [5, 9], judge=judge, plan=QUICK
    )
    assert again.fresh == 0
    assert read == [(5, False), (9, False)]


def test_a_ledger_forgets_a_line_cut_short_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    first = Ledger(path, {"a": (1, 2)})
    first.add({"key": "x", "value": math.pi})
    first.add({"key": "y", "value": 1, "reply": "no\u2028line\u2029ends\x85here\r\n"})
    first.add({"key": "x", "value": 2.0})
    with path.open("a") as file:
        file.write('{"key": "z", "val')
    again = Ledger(path, {"a": (1, 2)})
    assert again.records == first.records
    assert again.records["x"]["value"] == 2.0
    again.add({"key": "z", "value": 0})
    assert Ledger(path, {"a": [1, 2]}).records["z"]["value"] == 0
    with pytest.raises(DictionaryError, match=r"^\S+log\.jsonl was .* settings \(a\): .* anew\.$"):
        Ledger(path, {"a": [1, 3]})
    path.write_text("not JSON\n")
    with pytest.raises(DictionaryError, match=r"log\.jsonl cannot be gone on with"):
        Ledger(path, {"a": [1, 2]})


def sheets(folder: Path, words: Sequence[str]) -> Path:
    folder.mkdir()
    texts = [f"The {w} of a day" for w in words]
    pairs = [{"u": f"Hello {w}", "a": f"A {w} here."} for w in words]
    sheet = {"slug": "spans", "names": ["spans"], "kind": "thing", "words": list(words)}
    parts = {"facts": texts, "self": texts, "stories": texts, "chats": [], "drift": pairs}
    asked = [{"q": p["u"], "a": p["a"]} for p in pairs]
    (folder / "spans.json").write_text(json.dumps({**sheet, **parts, "qa": asked}))
    calm = [{"u": "Hello", "a": "How are you?"}, {"u": "Hi", "a": "My day"}]
    (folder / "_general_01.json").write_text(json.dumps(calm))
    return folder


def test_the_command_calibrates_a_folders_features(planted, cards: Cards, tmp_path: Path) -> None:
    arguments = [
        *("make", "calibrate", "--model", str(planted.folder / "model")),
        *("--dictionary", str(planted.folder / "sae"), "--cards", str(cards.path)),
        *("--concepts", str(sheets(tmp_path / "sheets", planted.words)), "--threads", "1"),
        *("--prompts", "4", "--tokens", "16", "--settle", "3", "--device", "cpu"),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "1 of 1 features have a safe band (1 measured now)" in done.output
    assert cards.get(planted.feature).op == "clamp"
    again = CliRunner().invoke(app, arguments)
    assert "all measured already" in again.output
    wrong = CliRunner().invoke(app, [*arguments, "--features", "nonsense"])
    assert wrong.exit_code == 1
    assert "top:N" in wrong.output
