"""The race against others' engines, with our own alone in it: what it tells. Never how fast."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import rivals
from rival_env import RIVALS, Unavailable, interpreter, steps
from rival_http import Served
from rival_plot import plot
from rival_process import Process
from rival_report import Entry, against, comparison, table
from rival_work import Work

OURS, PLAIN, LENS = (
    next(rival for rival in RIVALS if rival.name == name)
    for name in ("steerdeck", "generate", "saelens")
)
TINY = ["--shape", "tiny", "--threads", "1", "--tokens", "3", "--rounds", "1", "--concurrent", "2"]
WORK = Work("model", "sae", 1, [[5]], [""], [[0]], 1.0, 1, "kept")


def entry(rival, rates, *, batch="continuous", shared=False):
    facts = {"version": "1", "op": "clamp", "batch": batch, "shared": shared}
    return Entry(rival, facts, rates, {n: [9.0] * len(each) for n, each in rates.items()})


def test_who_cannot_run_is_a_row_that_says_why(capsys):
    rivals.main([*TINY, "--only", "steerdeck,saelens"])
    out = capsys.readouterr().out
    report = json.loads(out.splitlines()[-1])
    ours, lens = report["rivals"]
    assert [point["concurrent"] for point in ours["points"]] == [1, 2]
    assert all(point["tokens_per_s"] > 0 and point["rounds"] == 1 for point in ours["points"])
    assert ours["why_not"] is None
    assert lens["points"] == []
    assert "--venvs" in lens["why_not"]
    assert LENS.title in out
    assert report["ours_over_theirs"] == {"steerdeck": {}}


def test_an_unknown_rival_is_refused_by_name(capsys):
    with pytest.raises(SystemExit):
        rivals.main(["--only", "steerdeck,saelense"])
    assert "saelense is none of steerdeck" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("python", "why"),
    [("/bin/false", "its process ended: without a word"), ("/none", "/none is no interpreter")],
)
def test_an_interpreter_that_does_not_do_is_told(tmp_path, python, why):
    with pytest.raises(Unavailable, match=why):
        Process(LENS, Path(python), WORK, tmp_path / "log", 20)


def test_the_server_in_the_race_gets_the_threads_that_everybody_gets(monkeypatch):
    class Started(Exception):
        pass

    def start(*_, env, **__):
        raise Started(env.get("STEERDECK_THREADS"))

    monkeypatch.setattr("hosting.subprocess.Popen", start)
    with pytest.raises(Started, match="3"):
        Served(replace(WORK, threads=3))


def test_who_differs_in_arithmetic_alone_runs_in_the_others_venv(tmp_path):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "made").touch()
    pythons = {interpreter(one, {}, tmp_path) for one in RIVALS if "vllm" in one.name}
    assert pythons == {tmp_path / "vllm" / "bin" / "python"}
    half = next(one for one in RIVALS if one.name == "vllm16")
    assert interpreter(half, {"vllm": Path("/given")}, None) == Path("/given")


def test_nobody_else_decides_which_torch_comes():
    """torch is pinned in every step that could bring another."""
    for rival in RIVALS:
        first, *others = steps(rival, "index")
        assert first[1].startswith("torch==")
        assert first[2:] == ["--index-url", "index"]
        assert all(first[1] in step for step in others if step[0] == "install")


def test_those_who_go_one_after_another_are_compared_at_their_only_rate():
    """... and ratios are taken round by round: a machine that slows down changes none."""
    ours, other = entry(OURS, {1: [10, 5], 8: [80, 40]}), entry(PLAIN, {1: [20, 10]}, batch=None)
    told = against(ours, other)
    assert {n: value["median"] for n, value in told["at_once"].items()} == {1: 0.5}
    assert {n: value["median"] for n, value in told["one_at_a_time"].items()} == {1: 0.5, 8: 4.0}


def test_who_is_faster_is_named():
    ours = entry(OURS, {1: [10], 8: [80]})
    others = entry(PLAIN, {1: [20]}, batch=None), entry(LENS, {1: [5], 8: [90]}, batch="static")
    said = comparison(ours, others)
    assert said.endswith(f"faster than it: {PLAIN.title} at 1, {LENS.title} at 8")
    assert comparison(ours, others[:0]).endswith("none of them")


def test_the_table_tells_how_several_replies_are_made():
    rows = [
        entry(OURS, {1: [1.0], 8: [2.0]}),
        entry(PLAIN, {1: [1.0]}, batch=None),
        entry(LENS, {1: [1.0], 8: [2.0]}, shared=True),
        Entry(LENS, why="no wheel"),
    ]
    lines = table(rows, [1, 8]).splitlines()[1:]
    assert lines[0].endswith("continuous, each its own")
    cells = re.split(r"\s{2,}", lines[1])
    assert cells[3:] == ["1.0", "-", "9.0", "-", "-", "one after another"]
    assert lines[2].endswith("continuous, one configuration for all")
    assert lines[3].endswith("not run: no wheel")


def test_the_picture_has_a_bar_for_everybody_in_every_panel_longest_first():
    rates = [("Steerdeck", {1: 20.0, 8: 80.0}), ("in <turn>", {1: 25.0}), ("neither", {})]
    rivals = [
        {
            "name": title,
            "title": title,
            "points": [{"concurrent": n, "tokens_per_s": rate} for n, rate in points.items()],
        }
        for title, points in rates
    ]
    drawn = ElementTree.fromstring(plot({"rivals": rivals}))
    said = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert said == [
        "one reply, tokens/s", "in <turn>", "25", "Steerdeck", "20",
        "8 at once, tokens/s", "Steerdeck", "80", "in <turn>, in turn", "25",
    ]  # fmt: skip
    bars = [float(bar.get("width")) for bar in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars[0] / bars[1] == pytest.approx(25 / 20, rel=0.01)
    assert bars[2] / bars[3] == pytest.approx(80 / 25, rel=0.01)
