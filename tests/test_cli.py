"""The command line: help that helps, client commands against a live server, and a server process
that starts, serves, refuses and ends as it says.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import httpx2
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from server.cli import app
from server.cli.chat import read_edit
from server.cli.common import Api, harmless
from server.cli.machine import bind, physical_cores, url_of
from server.cli.serve import _hint
from server.logs import QUIET
from server.mount import NoPage, build_page, page_alone
from server.settings import Settings

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in [name for name in os.environ if name.startswith("STEERDECK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def run(live, monkeypatch):
    """A client command against the live server."""
    monkeypatch.setenv("STEERDECK_URL", live.url)

    def run(*arguments, **options):
        return CliRunner().invoke(app, list(arguments), **options)

    return run


COMMANDS = ["serve", "chat", "features", "presets", "dictionaries", "ui", "version"]
PARTS = {
    "features": ["search", "show", "import"],
    "presets": ["list", "show", "import", "export", "delete"],
    "dictionaries": ["inspect", "encode", "pack"],
}


def test_help_names_every_command():
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert all(f" {command} " in shown.output for command in COMMANDS)


@pytest.mark.parametrize(
    "command", [[c] for c in COMMANDS] + [[c, p] for c, parts in PARTS.items() for p in parts]
)
def test_every_command_explains_itself_and_its_options(command):
    shown = CliRunner().invoke(app, [*command, "--help"])
    assert shown.exit_code == 0
    for line in shown.output.splitlines():
        if "--" in line and "│" in line:
            words = line.replace("│", " ").split()
            assert any(word[0].isupper() or word.endswith(".") for word in words), line
    if command[0] in ("serve", "chat", "ui") or command[-1] in ("search", "import", "export"):
        assert "Example" in shown.output
        assert f"steerdeck {' '.join(command)}" in shown.output


def commands(command):
    yield command
    for part in getattr(command, "commands", {}).values():
        yield from commands(part)


@pytest.mark.parametrize("command", [*commands(get_command(app))], ids=lambda one: one.name)
def test_no_brackets_of_a_help_are_lost_as_markup(command):
    for text in (command.help, *(getattr(one, "help", None) for one in command.params)):
        assert not re.findall(r"(?<!\\)\[(?!/?bold\])[a-z#/@]\S*", text or "")


def test_the_help_of_encode_says_the_shapes():
    shown = CliRunner().invoke(app, ["dictionaries", "encode", "--help"]).output
    told = " ".join(shown.replace("│", " ").split())
    for words in ("a tensor x [n, d_in].", "recon [n, d_out], float32", "take [n, layers, d_in]."):
        assert words in told


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['steerdeck', 'serve', '--help']\n"
        "from server.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'gradio', 'fastapi', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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


class TestServe:
    def test_a_taken_port_is_a_sentence(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            said = CliRunner().invoke(app, ["serve", "--port", str(port)])
        assert said.exit_code == 1
        assert f"port {port} is taken" in said.stderr

    async def test_a_small_chunk_leaves_at_once_on_every_connection(self):
        """No 40 ms for Nagle's algorithm and the caller's delayed acknowledgement."""
        undelayed = []

        async def accept(_, writer):
            accepted = writer.get_extra_info("socket")
            undelayed.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = bind("127.0.0.1", 0)
        async with await asyncio.start_server(accept, sock=listening):
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            await reader.read()
            writer.close()
        assert undelayed == [1]

    @pytest.mark.parametrize("command", ["serve", "ui"])
    def test_a_port_that_is_none_is_refused(self, command):
        said = CliRunner().invoke(app, [command, "--port", "70000"])
        assert said.exit_code == 2
        assert "--port" in said.stderr

    def test_only_who_can_do_without_the_page_is_told_to(self, monkeypatch):
        both = (
            ("page", build_page, True),
            ("alone", partial(page_alone, settings=Settings()), False),
        )
        for name, build, served in both:
            monkeypatch.setitem(sys.modules, f"ui.{name}", None)
            with pytest.raises(NoPage) as told:
                build("http://127.0.0.1:1")
            assert ("--no-ui" in str(told.value)) is served

    @pytest.mark.parametrize("keys", ["", "secret"])
    def test_what_to_try_first_brings_the_key_that_is_wanted(self, keys):
        hint = _hint(Settings(api_keys=keys), "http://x")
        curl, chat = hint.splitlines()[1:]
        assert ("Bearer YOUR_KEY" in curl) is ("STEERDECK_API_KEY=YOUR_KEY " in chat) is bool(keys)

    def test_an_open_address_without_a_key_is_refused(self):
        said = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0", "--port", "0"])
        assert said.exit_code == 1
        assert "STEERDECK_API_KEYS" in said.stderr

    def test_every_option_is_a_setting(self):
        options = {option.name for option in get_command(app).commands["serve"].params}
        assert options <= {*Settings.model_fields}

    def test_wrong_options_are_named(self):
        said = CliRunner().invoke(app, ["serve", "--dtype", "int3", "--max-rows", "0"])
        assert said.exit_code == 2
        assert "--dtype" in said.stderr
        assert "--max-rows" in said.stderr

    @pytest.mark.parametrize(
        ("host", "url"),
        [
            ("127.0.0.1", "http://127.0.0.1:80"),
            ("0.0.0.0", "http://127.0.0.1:80"),
            ("::", "http://[::1]:80"),
            ("::1", "http://[::1]:80"),
            ("fd00::1", "http://[fd00::1]:80"),
            ("deck.example", "http://deck.example:80"),
        ],
    )
    def test_the_printed_address_is_one_a_browser_can_open(self, host, url):
        assert url_of(host, 80) == url

    def test_cores_are_counted(self):
        assert 1 <= physical_cores() <= (os.cpu_count() or 1)


SERVE = "-m", "server", "serve", "--port", "0"


def start(*arguments, how=SERVE, **env):
    """`steerdeck serve` as a process; its stderr so far is in `.said`."""
    process = subprocess.Popen(
        [sys.executable, *how, *arguments],
        cwd=REPO,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "STEERDECK_THREADS": "1", **env},
    )
    process.said = []
    assert process.stderr is not None

    def read(lines):
        for line in lines:
            process.said.append(line)

    process.reader = threading.Thread(target=read, args=(process.stderr,), daemon=True)
    process.reader.start()
    return process


def end(process):
    if process.poll() is None:
        process.kill()
    process.wait(10)
    process.reader.join(10)
    process.stderr.close()


def heard(process, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not any(what in line for line in process.said):
        assert process.poll() is None, "".join(process.said)
        assert time.monotonic() < deadline, "".join(process.said)
        time.sleep(0.02)
    return next(line for line in process.said if what in line)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory, make_model, tokenizer, dictionary):
    """The tiny model as a folder, and its dictionary's folder."""
    folder = tmp_path_factory.mktemp("disk") / "tiny-model"
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, dictionary.path


STUCK = """
import concurrent.futures, threading
from server import loading
from server.cli.serve import serve

def load(settings, report):
    report("loading the model", 0.1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(threading.Event().wait).result()

loading.load = load
serve(ui=False, port=0)
"""


@pytest.mark.parametrize(("told", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_a_process_ends_on_a_signal_while_its_loader_is_in_the_middle_of_something(told, status):
    process = start(how=("-c", STUCK))
    try:
        heard(process, "loading the model")
        process.send_signal(told)
        assert process.wait(10) == status
    finally:
        end(process)


def test_a_process_serves_from_disk_and_ends_mid_stream_on_a_signal(on_disk, tmp_path):
    model, sae = on_disk
    process = start(
        *("--model", str(model), "--dictionary", str(sae), "--no-ui", "--log-format", "json"),
        *("--data-dir", str(tmp_path)),
        STEERDECK_MAX_ROW="3",
    )
    try:
        url = heard(process, "Starting").split(" on ")[1].split(" ")[0]
        with httpx2.Client(base_url=url, timeout=60) as client:  # it listens before it has loaded
            while client.get("/readyz").status_code != 200:
                assert process.poll() is None, "".join(process.said)
                time.sleep(0.05)
            told = client.get("/v1/capabilities").json()
            assert told["model"] == "tiny-model"
            assert len(told["model_revision"]) == 16
            body = {
                "messages": [{"role": "user", "content": "hello"}],
                "max_tokens": 450,
                "ignore_eos": True,
                "stream": True,
            }
            with client.sse("/v1/chat/completions", method="POST", json=body) as events:
                arrived = iter(events)
                next(arrived)
                process.send_signal(signal.SIGTERM)
                last = [event.data for event in arrived][-1]
        assert "error" in json.loads(last)
        assert process.wait(10) in (-signal.SIGTERM, 0)
    finally:
        end(process)
    said = "".join(process.said)
    assert "is STEERDECK_MAX_ROWS meant?" in said
    assert "Traceback" not in said
    assert json.loads(next(line for line in process.said if "finding the files" in line))


@pytest.fixture
def _own_log():
    """`serve` sets up the log of its whole process."""
    loggers = [logging.getLogger(name) for name in (None, "steerdeck", *QUIET)]
    handlers, levels = loggers[0].handlers[:], [logger.level for logger in loggers]
    yield
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.mark.usefixtures("_own_log")
def test_what_cannot_be_loaded_ends_the_process_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    running = {*threading.enumerate()}
    said = CliRunner().invoke(app, ["serve", "--port", "0", "--model", str(tmp_path), "--no-ui"])
    assert said.exit_code == 1, said.output
    left = {thread for thread in threading.enumerate() if not thread.daemon} - running
    assert not left, "they would keep the process from ending"
    failure = next(line for line in said.stderr.splitlines() if "cannot be served" in line)
    assert str(tmp_path) in failure
    assert "Traceback" not in said.output
