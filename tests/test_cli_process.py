"""A server process that starts, serves, refuses and ends as it says."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cli_runner
import httpx2
import pytest
from typer.testing import CliRunner

from server.cli import app
from server.logs import QUIET

_clean = cli_runner._clean  # fixture

REPO = Path(__file__).resolve().parents[1]

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


NO_LOADING = """
import sys, types
loading = sys.modules["server.loading"] = types.ModuleType("server.loading")  # it imports seconds
"""

STUCK = """
import concurrent.futures, threading
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
    process = start(how=("-c", NO_LOADING + STUCK))
    try:
        heard(process, "loading the model")
        process.send_signal(told)
        assert process.wait(10) == status
    finally:
        end(process)


SLOW = """
import time
from server import mount
from server.cli import app

def build_page(url):
    print("building", file=sys.stderr, flush=True)
    time.sleep(60)

mount.build_page = build_page
app(["serve", "--port", "0"])
"""


def test_ctrl_c_ends_a_process_while_it_is_still_importing():
    process = start(how=("-c", NO_LOADING + SLOW))
    try:
        heard(process, "building")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    finally:
        end(process)
    assert "Traceback" not in "".join(process.said)


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
