"""What is cached serves: a pinned commit without asking, all of it when the hub is gone."""

from __future__ import annotations

import os
import socket

import hub_saes
import pytest
from hub_saes import names, stop
from hub_stub import COMMITS
from huggingface_hub import constants, hf_hub_download

from dictionaries import hub as hub_module
from dictionaries import hub_help
from dictionaries.errors import DictionaryError
from dictionaries.hub import find_files, origin

hub = hub_saes.hub  # fixture


def test_a_pinned_commit_is_found_again_without_asking_the_hub(hub):
    name = f"org/saes@{COMMITS['main']}/res/layer_1"
    first = find_files(name, kind="dictionary", progress=False)
    hub.handler.asked.clear()
    assert find_files(name, kind="dictionary", progress=False) == first
    assert hub.handler.asked == []


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_pinned_commit_of_which_others_cached_a_file_is_fetched_whole(hub):
    """transformers puts single files into the same folder, and no list of what belongs there."""
    name = f"org/saes@{COMMITS['main']}"
    hf_hub_download("org/saes", "config.json", endpoint=os.environ["HF_ENDPOINT"])
    model = find_files(name, kind="model", progress=False)
    assert "model.safetensors" in names(model)
    stop(hub)
    assert find_files(name, kind="model", progress=False) == model


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_others_cached_serves_when_the_hub_is_gone(hub, monkeypatch):
    for file in ("config.json", "model.safetensors"):
        hf_hub_download("org/saes", file, endpoint=os.environ["HF_ENDPOINT"])
    stop(hub)
    # The hub's own code would try for most of a minute to have its listing.
    monkeypatch.setattr(hub_module, "fetch_large", lambda *_: pytest.fail("the hub is gone"))
    model = find_files(f"org/saes@{COMMITS['main']}", kind="model", progress=False)
    assert names(model) == ["config.json", "model.safetensors"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_cached_serves_when_the_hub_is_gone(hub):
    first = find_files("org/saes/res/layer_1", kind="dictionary", progress=False)
    stop(hub)
    assert find_files("org/saes/res/layer_1", kind="dictionary", progress=False) == first
    with pytest.raises(DictionaryError, match=r"not in the cache .* cannot be reached: connect"):
        find_files("org/saes/res/layer_12", kind="dictionary", progress=False)
    with pytest.raises(DictionaryError, match=r"org/other is not in the cache"):
        find_files("org/other", kind="model", progress=False)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["model", "dictionary"])
def test_what_is_cached_serves_when_the_hub_says_nothing(kind, hub, monkeypatch):
    """It takes the connection, and there is no answer."""
    first = find_files("org/saes/res/layer_1", kind=kind, progress=False)
    monkeypatch.setattr(hub_help, "PATIENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{mute.getsockname()[1]}")
        # The hub's own code would wait for ever.
        monkeypatch.setattr(hub_module, "fetch_large", lambda *_: pytest.fail("nobody answers"))
        assert find_files("org/saes/res/layer_1", kind=kind, progress=False) == first


def test_offline_the_cache_serves_and_nothing_is_asked(hub, monkeypatch):
    first = find_files("org/saes/res/layer_1", kind="dictionary", progress=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.handler.asked.clear()
    assert find_files("org/saes/res/layer_1", kind="dictionary", progress=False) == first
    with pytest.raises(DictionaryError, match="cache"):
        find_files("org/saes/res/layer_12", kind="dictionary", progress=False)
    assert hub.handler.asked == []


def test_a_path_in_the_cache_knows_the_commit_it_came_from(hub, tmp_path):
    folder = find_files("org/saes/res/layer_1", kind="dictionary", progress=False)
    assert origin(folder) == f"org/saes@{COMMITS['main']}/res/layer_1"
    assert origin(folder.parents[1]) == f"org/saes@{COMMITS['main']}"
    assert find_files(origin(folder), kind="dictionary", progress=False) == folder
    assert origin(tmp_path) is None
