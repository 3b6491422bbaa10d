"""How far a download is, and what breaks off goes on where it stopped."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from pathlib import Path

import hub_saes
import pytest
from hub_stub import COMMITS
from huggingface_hub import constants

from dictionaries import hub_resume
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
from dictionaries.hub import find_files
from dictionaries.hub_progress import Tally

hub = hub_saes.hub  # fixture


def test_progress_is_shown_unless_told_not_to(hub, capfd):
    find_files("org/saes/res/layer_1", kind="dictionary", progress=False)
    assert capfd.readouterr().err == ""
    find_files("org/saes/res/layer_12", kind="dictionary")
    assert "%" in capfd.readouterr().err


def test_a_broken_connection_goes_on_where_it_stopped(hub):
    hub.handler.cuts[:] = [700]
    folder = find_files("org/saes/res/layer_1", kind="dictionary", progress=False)
    assert hub.handler.ranges == ["bytes=700-"]
    assert open_dictionary(folder).info.architecture == "topk"


def test_a_download_that_was_given_up_is_resumed_by_the_next_start(hub):
    """A pinned commit, whose snapshot is there already with the first of its files."""
    name = f"org/saes@{COMMITS['main']}/res/layer_1"
    hub.handler.cuts[:], hub.handler.breaks = [500], (True,)
    with pytest.raises(DictionaryError, match=r"What has come is kept: start again"):
        find_files(name, kind="dictionary", progress=False)
    hub.handler.down.clear()
    hub.handler.ranges.clear()
    folder = find_files(name, kind="dictionary", progress=False)
    assert hub.handler.ranges == ["bytes=500-"]
    assert open_dictionary(folder).info.architecture == "topk"


def test_parts_that_do_not_fit_together_are_thrown_away(hub):
    name = "org/saes/res/layer_1"
    weights = hub.handler.repos["org/saes"] / "res/layer_1/sae_weights.safetensors"
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    hub.handler.tag = lambda _, file: hashlib.sha256(file.read_bytes()).hexdigest()
    blobs = Path(constants.HF_HUB_CACHE) / "models--org--saes" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256}.partial").write_bytes(b"of another file" * 9)
    with pytest.raises(DictionaryError, match="do not fit together"):
        find_files(name, kind="dictionary", progress=False)
    assert open_dictionary(find_files(name, kind="dictionary", progress=False)).info.k


def test_what_broke_and_went_on_within_one_start_must_fit_together_too(hub):
    hub.handler.cuts[:] = [700]
    hub.handler.tag = lambda *_: "f" * 64
    with pytest.raises(DictionaryError, match="do not fit together"):
        find_files("org/saes/res/layer_1", kind="dictionary", progress=False)
    assert hub.handler.ranges == ["bytes=700-"]


def test_how_far_a_download_is_can_be_told(hub, capfd):
    told = []
    find_files(
        "org/saes/res/layer_1",
        kind="dictionary",
        progress=False,
        told=lambda there, all_: told.append((there, all_)),
    )
    assert capfd.readouterr().err == ""
    assert [there for there, _ in told] == sorted(there for there, _ in told)
    assert told[-1][0] == told[-1][1] > 1000


def test_a_download_that_is_stopped_does_not_wait_for_its_other_files(hub):
    """By Ctrl-C; what has come of them is kept."""
    pieces = []

    def told(there, all_):
        pieces.append(there)
        if len(pieces) == 5:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.02)

    files = [f"res/layer_{i}/sae_weights.safetensors" for i in (1, 12)]
    options = {"allow_patterns": files, "endpoint": os.environ["HF_ENDPOINT"]}
    with pytest.raises(KeyboardInterrupt):
        hub_resume.fetch_large("org/saes", options, progress=False, tally=Tally(told))
    size = (hub.handler.repos["org/saes"] / files[0]).stat().st_size
    assert len(pieces) < size / 100 / 2
    partial = Path(constants.HF_HUB_CACHE).glob("models--org--saes/blobs/*.partial")
    assert any(path.stat().st_size for path in partial)


def test_a_file_too_large_for_plain_http_is_left_to_the_hubs_own_code(hub, monkeypatch):
    monkeypatch.setattr(constants, "MAX_HTTP_DOWNLOAD_SIZE", 1000)
    monkeypatch.setattr(hub_resume, "LARGE", 1)
    fetched = []
    monkeypatch.setattr(hub_resume, "_fetch", lambda repo, name, *_: fetched.append(name))
    options = {"allow_patterns": ["res/layer_1/*"], "endpoint": os.environ["HF_ENDPOINT"]}
    hub_resume.fetch_large("org/saes", options, progress=False, tally=Tally())
    assert sorted(fetched) == ["res/layer_1/cfg.json", "res/layer_1/examples.safetensors"]
