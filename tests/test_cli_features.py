"""`steerdeck features` and `presets` against a live server: found, shown, sent out and back."""

from __future__ import annotations

import io
import json

import cli_runner
import pytest

from server import __main__
from server.cli.common import Api, show

_clean = cli_runner._clean  # fixture
run = cli_runner.run  # fixture


class TestFeatures:
    def test_search_lists_what_was_found(self, run):
        found = run("features", "search", "golden", "gate")
        assert "tiny/3" in found.stdout
        assert "Golden Gate Bridge" in found.stdout
        assert "1 of 1" in found.stdout

    def test_search_can_print_the_servers_json(self, run, live):
        found = run("features", "search", "--json", "--sort", "feature", "--limit", "2")
        asked = {"sort": "feature", "limit": 2}
        assert json.loads(found.stdout) == live.http.get("/v1/features", params=asked).json()

    def test_show_tells_a_feature_with_its_neighbours(self, run):
        shown = run("features", "show", "golden-gate-bridge", "--neighbors", "2")
        for told in ("Golden Gate Bridge", "2.5", "0.5 to 3", "clamp 1", "' bridge'", "' cat'"):
            assert told in shown.stdout
        assert shown.stdout.count("tiny/") == 3
        assert run("features", "show", "nope").exit_code == 1

    @pytest.mark.parametrize(
        ("tokens", "printed"),
        [
            (["[", "/", "INST", "]", " hi"], "[/INST] hi"),
            (["[", "red", "]", "x", "\\"], "[red]x\\"),
            (["\x1b]0;owned\x07", "a"], "]0;owneda"),
        ],
    )
    def test_show_prints_strangers_examples_as_they_are(self, run, monkeypatch, tokens, printed):
        plain = Api.ask

        def ask(api, *asked, **more):
            found = plain(api, *asked, **more)
            example = {"tokens": tokens, "activations": [1.0] * len(tokens)}
            return found | {"examples": [example], "label": "".join(tokens)}

        monkeypatch.setattr(Api, "ask", ask)
        shown = run("features", "show", "3", "--neighbors", "0")
        assert shown.stdout.startswith(f"{printed}  tiny/3\n")
        assert f"  … {printed}\n" in shown.stdout


class TestPresets:
    def test_a_preset_goes_out_and_comes_back(self, run, tmp_path):
        file = tmp_path / "mine.json"
        assert run("presets", "export", "loud", str(file)).exit_code == 0
        assert run("presets", "import", str(file)).exit_code == 1  # its name is built in
        saved = run("presets", "import", str(file), "--name", "mine")
        assert saved.stdout == "saved mine: golden-gate-bridge clamp 4\n"
        assert "mine" in run("presets", "list").stdout
        assert json.loads(run("presets", "show", "mine").stdout)["builtin"] is False
        assert run("presets", "delete", "mine").exit_code == 0
        assert run("presets", "show", "mine").exit_code == 1

    def test_others_json_comes_in_under_the_files_name(self, run, tmp_path):
        file = tmp_path / "my steering.json"
        file.write_text(json.dumps({"features": [{"index": 5, "strength": 7}]}))
        saved = run("presets", "import", str(file))
        assert saved.stdout == "saved my-steering: tiny/5 add 7 (raw)\n"
        assert run("presets", "delete", "my-steering").exit_code == 0

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            (None, "cannot be read"),
            ("{", "not JSON"),
            ("[]", "no JSON object"),
            ("[1e999]", "not JSON"),
        ],
    )
    def test_a_file_that_is_no_preset_is_told(self, run, tmp_path, text, names):
        file = tmp_path / "x.json"
        if text is not None:
            file.write_text(text)
        said = run("presets", "import", str(file))
        assert said.exit_code == 1
        assert names in said.stderr


def narrowed(monkeypatch):
    """A pipe of Windows as stdout."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr("sys.stdout", stream)
    return stream


def test_json_is_json_where_the_terminal_is_not_utf_8(monkeypatch):
    narrow = narrowed(monkeypatch)
    show({"promoted": ["▁橋é"]})
    narrow.flush()
    assert json.loads(narrow.buffer.getvalue()) == {"promoted": ["▁橋é"]}


def test_what_a_terminal_cannot_show_ends_nothing(monkeypatch):
    narrow = narrowed(monkeypatch)
    monkeypatch.setattr(__main__, "app", lambda: narrow.write("▁bridge"))
    __main__.main()
    narrow.flush()
    assert narrow.buffer.getvalue() == b"?bridge"
