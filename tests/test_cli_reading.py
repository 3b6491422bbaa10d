"""`steerdeck features find`, `contrast` and `compare` on a live server: what is asked and shown."""

from __future__ import annotations

import json

import cli_runner

run, _clean = cli_runner.run, cli_runner._clean  # fixtures


def test_find_lists_what_fires_on_a_text(run, live) -> None:
    body = {"text": "hello there", "top": 2, "limit": 200}
    told = live.http.post("/v1/features/activations", json=body).json()
    shown = run("features", "find", "hello there", "--tokens", "2", "--limit", "200")
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    tokens = lines[: len(told["tokens"])]
    assert tokens[0].endswith("not read")
    for line, token in zip(tokens[1:], told["tokens"][1:], strict=True):
        assert repr(token["token"]) in line
        assert all((f["label"] or f["ref"]) in line for f in token["features"])
    bridge = next(f for f in told["features"] if f["id"] == 3)
    [row] = [line for line in lines[len(tokens) :] if "tiny/3 " in line]
    assert "Golden Gate Bridge" in row
    assert f"{bridge['activation']:.3g} ({bridge['activation'] / 2.5:.0%} of its maximum)" in row
    whole = json.loads(run("features", "find", "-", "--json", input="hello there").stdout)
    assert whole["features"] == told["features"][:20]
    assert all(token["features"] in (None, []) for token in whole["tokens"])


def test_contrast_reads_a_text_a_line(run, live, tmp_path) -> None:
    more, less = tmp_path / "fog.txt", tmp_path / "bread.txt"
    more.write_text("fog and mist\n\n  a grey morning \n")
    less.write_text("bread and salt\n")
    sets = {"more": ["fog and mist", "a grey morning"], "less": ["bread and salt"]}
    told = live.http.post("/v1/features/contrast", json=sets | {"limit": 3}).json()
    asked = ("features", "contrast", "--more", str(more), "--less", str(less), "--limit", "3")
    assert json.loads(run(*asked, "--json").stdout) == told
    shown = run(*asked).stdout
    assert shown.index("higher in fog.txt") < shown.index("higher in bread.txt")
    assert all(f["ref"] in shown for side in sets for f in told[side])


def test_a_file_that_is_no_text_is_told(run, tmp_path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    asked = ("features", "contrast", "--more", str(tmp_path / "a.txt"), "--less", "nowhere.txt")
    shown = run(*asked)
    assert shown.exit_code == 1
    assert "a.txt cannot be read as text" in shown.stderr


def test_compare_steers_by_each_feature_alone_and_by_all(run, live) -> None:
    asked = ("compare", "hello", "--temperature", "0", "--max-tokens", "6", "--seed", "4")
    steer = ("--steer", "fog:2", "--steer", "3:4")
    told = json.loads(run(*asked, *steer, "--preset", "loud", "--json").stdout)
    edits = [
        [(e["feature"], e["strength"]) for e in v["steering"]["applied"]] for v in told["variants"]
    ]
    fog, bridge = ("tiny/5", 3.0), ("tiny/3", 10.0)  # in activations
    assert edits == [[], [fog], [bridge], [fog, bridge], [bridge]]
    shown = run(*asked, *steer).stdout
    for label in ("unsteered", "fog and mist clamp", "Golden Gate Bridge clamp", "all together"):
        assert label in shown


def test_a_sweep_moves_all_strengths_away_from_what_changes_nothing(run, live) -> None:
    steer = ("--steer", "fog:2", "--steer", "3:3:scale", "--steer", "7:ablate")
    told = json.loads(run("compare", "hi", *steer, "--sweep", "--max-tokens", "2", "--json").stdout)
    assert [v["label"] for v in told["variants"]] == ["unsteered", "0.5 ×", "1 ×", "1.5 ×", "2 ×"]
    strengths = [[e["strength"] for e in v["steering"]["applied"]] for v in told["variants"][1:]]
    assert [one[:2] for one in strengths] == [[1.5, 2.0], [3.0, 3.0], [4.5, 4.0], [6.0, 5.0]]
    refused = run("compare", "hi", "--sweep")
    assert (refused.exit_code, "nothing to compare" in refused.stderr) == (1, True)
