"""`steerdeck chat` against a live server: replies, edits written short, refusals and keys."""

from __future__ import annotations

import json

import cli_runner
import pytest
from typer.testing import CliRunner

from server.cli import app
from server.cli.chat import read_edit
from server.cli.common import harmless

_clean = cli_runner._clean  # fixture
run = cli_runner.run  # fixture


class TestChat:
    def test_the_reply_is_printed(self, run, live):
        said = run("chat", "hello", "--temperature", "0", "--max-tokens", "8", "--seed", "1")
        assert said.exit_code == 0, said.output
        expected = live.chat(seed=1)["choices"][0]["message"]["content"]
        assert said.stdout == expected + "\n"

    def test_features_and_presets_steer_it(self, run, live):
        options = ["--temperature", "0", "--max-tokens", "8", "--seed", "1"]
        steered = run("chat", "hello", "-s", "fog:2:add", "--preset", "loud", *options)
        edits = [{"feature": "fog", "op": "add", "strength": 2.0}]
        expected = live.chat(seed=1, steering={"preset": "loud", "edits": edits})
        assert steered.stdout == expected["choices"][0]["message"]["content"] + "\n"

    def test_the_receipt_can_be_had(self, run):
        said = run("chat", "hello", "--receipt", "--seed", "5", "--max-tokens", "2")
        assert json.loads(said.stderr)["seed"] == 5

    def test_without_a_message_it_is_a_conversation(self, run, live):
        options = ["--temperature", "0", "--max-tokens", "4", "--system", "Be kind."]
        said = run("chat", *options, input="hello\n\nagain\n")
        turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}]
        first = live.chat(messages=turns, max_tokens=4)["choices"][0]["message"]
        turns += [{"role": "assistant", "content": first["content"]}]
        turns += [{"role": "user", "content": "again"}]
        second = live.chat(messages=turns, max_tokens=4)["choices"][0]["message"]
        assert said.stdout == f"{first['content']}\n{second['content']}\n"

    @pytest.mark.parametrize(
        ("arguments", "names"),
        [
            (["-s", "fog:much"], "'much' is no number"),
            (["-s", "nope:1"], "nope"),
            (["--preset", "nope"], "nope"),
            (["--temperature", "5"], "temperature"),
        ],
    )
    def test_a_refusal_is_one_sentence_and_a_failure(self, run, arguments, names):
        said = run("chat", "hello", *arguments)
        assert said.exit_code == 1
        assert said.stderr.startswith("steerdeck: ")
        assert names in said.stderr
        assert said.stderr.count("\n") == 1

    def test_no_server_is_a_sentence_that_says_how_to_get_one(self):
        said = CliRunner().invoke(app, ["chat", "hello", "--url", "http://127.0.0.1:1"])
        assert said.exit_code == 1
        assert "steerdeck serve" in said.stderr

    def test_the_key_is_taken_from_the_environment(self, live, serve, monkeypatch):
        keyed = serve(live.service.deck, api_keys="open-sesame")
        for none in ("", "\r"):
            monkeypatch.setenv("STEERDECK_API_KEY", none)
            closed = CliRunner().invoke(app, ["presets", "list", "--url", keyed.url])
            assert closed.exit_code == 1
            assert "wants a key: set STEERDECK_API_KEY to one" in closed.stderr
        monkeypatch.setenv("STEERDECK_API_KEY", "open-says-me")
        wrong = CliRunner().invoke(app, ["presets", "list", "--url", keyed.url])
        assert "does not take the API key in STEERDECK_API_KEY" in wrong.stderr
        monkeypatch.setenv("STEERDECK_API_KEY", "open-sesame")
        assert CliRunner().invoke(app, ["presets", "list", "--url", keyed.url]).exit_code == 0

    @pytest.mark.parametrize("key", ["schlüssel", "鍵", "fermé à"])
    def test_a_key_may_be_any_text(self, live, serve, monkeypatch, key):
        keyed = serve(live.service.deck, api_keys=key)
        monkeypatch.setenv("STEERDECK_API_KEY", key)
        assert CliRunner().invoke(app, ["presets", "list", "--url", keyed.url]).exit_code == 0
        monkeypatch.setenv("STEERDECK_API_KEY", key + "é")
        refused = CliRunner().invoke(app, ["presets", "list", "--url", keyed.url])
        assert "does not take the API key" in refused.stderr

    @pytest.mark.parametrize(
        ("text", "edit"),
        [
            ("fog", {"feature": "fog", "strength": 1.0}),
            ("12", {"feature": 12, "strength": 1.0}),
            ("²", {"feature": "²", "strength": 1.0}),
            ("deck/12:-0.5", {"feature": "deck/12", "strength": -0.5}),
            ("fog:2:add", {"feature": "fog", "strength": 2.0, "op": "add"}),
            ("44:90:add:raw", {"feature": 44, "strength": 90.0, "op": "add", "unit": "raw"}),
            ("fog::add", {"feature": "fog", "strength": 1.0, "op": "add"}),
            ("fog:ablate", {"feature": "fog", "op": "ablate"}),
            ("fog::ablate", {"feature": "fog", "op": "ablate"}),
        ],
    )
    def test_an_edit_is_written_short(self, text, edit):
        assert read_edit(text) == edit

    def test_a_reply_cannot_command_the_terminal(self):
        assert harmless("a\x1b[2Jb\x07\x9bc\n\té😀") == "a[2Jbc\n\té😀"
