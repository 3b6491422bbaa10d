"""A name that says no commit is kept at that of its first download, until somebody moves on."""

from __future__ import annotations

import logging
from pathlib import Path

import hub_saes
import pytest
from hub_saes import stop
from hub_stub import COMMITS
from typer.testing import CliRunner

from dictionaries import catalog as catalog_module
from dictionaries.catalog import pairing
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_coder
from dictionaries.hub import find_files, origin
from dictionaries.hub_parts import look
from dictionaries.hub_pins import pinned
from server.cli import app

hub = hub_saes.hub  # fixture

NAME, FIRST, MOVED = "org/saes/res/layer_1", COMMITS["main"], "d" * 40


def find(name: str = NAME) -> Path:
    return find_files(name, kind="dictionary", progress=False)


def move(hub, **more: str) -> None:
    """Somebody pushes to the main branch; what it was stays."""
    hub.handler.commits = {"main": MOVED, "before": FIRST} | more
    config = hub.handler.repos["org/saes"] / "res/layer_1/cfg.json"
    config.write_text(config.read_text().replace("resid_post", "resid_pre"))


@pytest.fixture
def moved(hub):
    """Downloaded once; then the main branch moves."""
    find()
    move(hub)
    return hub


def test_the_next_start_takes_the_commit_of_the_first_one_and_asks_nobody(moved):
    moved.handler.asked.clear()
    assert origin(find()) == f"org/saes@{FIRST}/res/layer_1"
    assert moved.handler.asked == []


def test_it_is_kept_even_if_another_program_downloads_the_main_branch(moved):
    from huggingface_hub import hf_hub_download

    endpoint = f"http://127.0.0.1:{moved.server_port}"
    newer = hf_hub_download("org/saes", "config.json", endpoint=endpoint)
    assert MOVED in newer
    assert FIRST in str(find())


def test_the_others_of_its_repository_come_of_the_same_commit(moved):
    assert origin(find("org/saes/res/layer_12")) == f"org/saes@{FIRST}/res/layer_12"


def test_a_branch_that_is_named_is_followed_and_changes_nothing_for_the_name(moved):
    assert origin(find("org/saes@main/res/layer_1")) == f"org/saes@{MOVED}/res/layer_1"
    assert FIRST in str(find())


def test_what_was_only_looked_at_or_misspelt_is_not_kept(hub):
    with pytest.raises(DictionaryError, match="has no 'layer_3'"):
        find("org/saes/layer_3")
    seen = look(NAME, open_coder, progress=False)
    assert (seen["source"], pinned("org/saes")) == (f"org/saes@{FIRST}/res/layer_1", None)


def test_what_is_missing_at_the_kept_commit_says_how_to_move_on(moved):
    said = rf"It is at commit {FIRST}, kept since its download; `steerdeck dictionaries update org/"
    with pytest.raises(DictionaryError, match=rf"no 'layer_3'.* {said}"):
        find("org/saes/layer_3")
    moved.handler.commits = {"main": MOVED}  # its history was rewritten
    with pytest.raises(DictionaryError, match=rf"no revision '{FIRST}'.* {said}"):
        find("org/saes/res/layer_12")
    assert FIRST in str(find()), "what is here is still here"


def test_a_cache_that_cannot_be_written_keeps_none_and_says_so(hub, tmp_path, caplog):
    refs = tmp_path / "cache" / "models--org--saes" / "refs"
    (refs / "steerdeck").mkdir(parents=True)
    assert origin(find()) == f"org/saes@{FIRST}/res/layer_1"
    assert f"org/saes is not kept at commit {FIRST}: " in caplog.text
    assert pinned("org/saes") is None
    assert sorted(path.name for path in refs.iterdir()) == ["main", "steerdeck"]


def test_every_start_tells_the_commit_and_how_to_leave_it(moved, caplog):
    caplog.set_level(logging.INFO, "steerdeck.hub")
    find()
    kept = "kept since its download; `steerdeck dictionaries update org/saes` moves on"
    assert caplog.messages == [f"{NAME} is org/saes at commit {FIRST}, {kept}"]
    find(f"org/saes@{FIRST}/res/layer_1")
    assert caplog.messages[-1].endswith(f"at commit {FIRST}")


# --- The command ---


def update(name: str):
    return CliRunner().invoke(app, ["dictionaries", "update", name])


def test_update_moves_on_and_the_next_start_keeps_what_it_finds(moved):
    done = update("org/saes")
    assert f"org/saes was kept at {FIRST}; the Hub has {MOVED}" in done.output
    assert origin(find()) == f"org/saes@{MOVED}/res/layer_1"
    moved.handler.commits = {"main": "e" * 40, "before": MOVED}
    assert MOVED in str(find())


def test_update_leaves_the_newest_and_tells_what_there_is_to_do(hub):
    assert "nothing of it was downloaded" in update(NAME).output
    find()
    assert f"org/saes stays at {FIRST}: the Hub has nothing newer" in update(NAME).output
    for name, said in (
        (f"org/saes@{FIRST}/res", f"says which commit or branch it is of (org/saes@{FIRST})"),
        ("gemma-2-2b-it", "says which commit or branch it is of (google/gemma-scope-2b-pt-res@"),
        (str(hub.handler.repos["org/saes"]), "lies here: only what comes from the Hub is kept"),
        ("nonesuch", "neither an existing path nor a name on the hub"),
    ):
        refused = update(name)
        assert refused.exit_code == 1
        assert said in refused.output.replace("\n", " ")
    assert pinned("org/saes") == FIRST


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_update_without_the_hub_moves_on_once_it_is_back(moved):
    stop(moved)
    assert "the Hub did not say what it has" in update("org/saes").output
    assert FIRST in str(find()), "what is cached serves"


def test_an_entry_of_the_catalog_without_a_commit_is_kept_and_tells_it(
    hub, tmp_path, monkeypatch
) -> None:
    entry = pairing("qwen3-8b")
    mine = catalog_module.Pairing(**{**_fields(entry), "dictionary": NAME})
    monkeypatch.setattr(catalog_module, "_all", lambda: {"qwen3-8b": mine})

    def told(*arguments: str) -> str:
        return " ".join(CliRunner().invoke(app, [*arguments, "qwen3-8b"]).output.split())

    assert "not pinned dictionary (not downloaded yet, then kept at" in told("catalog")
    find(mine.dictionary)
    move(hub)
    assert f"not pinned dictionary (kept at {FIRST})" in told("catalog")
    assert f"source org/saes@{FIRST}/res/layer_1" in told("dictionaries", "inspect")
    assert f"org/saes was kept at {FIRST}" in told("dictionaries", "update")


def _fields(entry):
    return {name: getattr(entry, name) for name in entry.__dataclass_fields__}
