"""Looking at a dictionary on the hub: what is cached, which commit, and what goes wrong there."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import hub_published
import pytest
from hub_published import name_on_hub
from hub_stub import COMMITS
from huggingface_hub import constants
from published import place
from typer.testing import CliRunner

from dictionaries import absent, hub_ranges, hub_resume
from dictionaries.about import about
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_coder
from dictionaries.hub import find_files
from dictionaries.hub_parts import look
from server.cli import app

hub = hub_published.hub  # fixture
everything = hub_published.everything  # fixture


@pytest.fixture
def saes(everything):
    """The same, and one that tests may spoil."""
    folder = everything.handler.repos["saelens_v6_topk/saelens-v6-saes"]
    spoilt = Path(tempfile.gettempdir()).parent / "saes"
    shutil.copytree(folder, spoilt)
    everything.handler.repos["org/saes"] = everything.handler.repos["org/gated"] = spoilt
    return everything


NAME = "org/saes/blocks.12.hook_resid_post"
WEIGHTS = "blocks.12.hook_resid_post/sae_weights.safetensors"


def test_a_hub_that_serves_no_parts_is_downloaded_from_and_that_is_said(saes):
    saes.handler.ranged = False
    told = []
    seen = look(NAME, open_coder, progress=False, instead=told.append)
    assert told == [
        f"{NAME} is downloaded, because the hub, or a proxy before it, does not serve parts of "
        "files."
    ]
    size = (saes.handler.repos["org/saes"] / WEIGHTS).stat().st_size
    assert saes.handler.sent[WEIGHTS] <= 2 * size, "once in vain at most"
    assert seen == about(open_coder(find_files(NAME, kind="dictionary", progress=False)))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_cached_is_read_from_the_cache(saes, monkeypatch):
    pinned = NAME.replace("saes/", f"saes@{COMMITS['main']}/")
    here = find_files(NAME, kind="dictionary", progress=False)
    saes.handler.sent.clear()
    assert look(NAME, open_coder, progress=False) == about(open_coder(here))
    assert saes.handler.sent == {}
    saes.handler.asked.clear()
    assert look(pinned, open_coder)["revision"]
    assert saes.handler.asked == [], "a pinned commit that is here needs no hub"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert look(NAME, open_coder) == about(open_coder(here))
    assert saes.handler.asked == []
    with pytest.raises(DictionaryError, match="not in the cache"):
        look(NAME.replace("saes/", f"saes@{COMMITS['old']}/"), open_coder)


def test_of_files_in_the_cache_nothing_is_fetched_again(saes):
    """Of Qwen-Scope, another layer brought the config and the README."""
    repo = saes.handler.repos["org/saes"].parent / "scope"
    shutil.copytree(place("qwen_scope").parent, repo)
    shutil.copy(repo / "layer5.sae.pt", repo / "layer6.sae.pt")
    (repo / "README.md").write_text("---\nlicense: mit\n---\n")
    saes.handler.repos["org/scope"] = repo
    find_files("org/scope/layer5.sae.pt", kind="dictionary", progress=False)
    saes.handler.sent.clear()
    seen = look("org/scope/layer6.sae.pt", open_coder)
    assert (seen["site"]["layer"], seen["licence"]) == (6, "mit")
    assert {*saes.handler.sent} == {"layer6.sae.pt"}


@pytest.mark.parametrize("revision", ["old", COMMITS["old"], None])
def test_a_revision_is_kept_to(revision, saes):
    name = NAME if revision is None else NAME.replace("saes/", f"saes@{revision}/")
    commit = COMMITS["main" if revision is None else "old"]
    assert look(name, open_coder)["path"] == f"org/saes@{commit}/blocks.12.hook_resid_post"
    asked = [path for path in saes.handler.asked if "/resolve/" in path]
    assert asked
    assert all(f"/resolve/{commit}/" in path for path in asked), "one commit, were the branch moved"
    with pytest.raises(DictionaryError, match="no revision 'newest'"):
        look(NAME.replace("saes/", "saes@newest/"), open_coder)


def test_a_licence_and_many_dictionaries_are_told_as_of_a_download(saes):
    repo = saes.handler.repos["org/saes"]
    (repo / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    assert look(NAME, open_coder, licence="mit")["licence"] == "cc-by-4.0"
    shutil.copytree(repo / "blocks.12.hook_resid_post", repo / "blocks.9.hook_resid_post")
    with pytest.raises(DictionaryError, match="holds 2 dictionaries; name one of them"):
        look("org/saes", open_coder)


def run(*arguments):
    return CliRunner().invoke(app, ["dictionaries", "inspect", *arguments])


def test_a_gated_or_missing_repository_says_what_to_do(saes):
    for name, said in (("gated", "is gated: accept its licence at"), ("none", "was not found at")):
        refused = run(NAME.replace("saes", name))
        assert refused.exit_code == 1
        assert said in refused.output.replace("\n", " ")


def test_a_broken_connection_is_tried_again_and_a_broken_hub_told(saes, monkeypatch):
    monkeypatch.setattr(absent, "BLOCK", 4096)
    monkeypatch.setattr(hub_ranges.time, "sleep", lambda _: None)
    saes.handler.cuts[:] = [700]
    assert look(NAME, open_coder)["architecture"] == "topk"
    assert saes.handler.cuts == []
    saes.handler.cuts[:] = [700] * 9
    with pytest.raises(DictionaryError, match=r"org/saes could not be downloaded from .*again\."):
        look(NAME, open_coder)
    saes.handler.down.append(True)
    refused = run(NAME)
    assert "500" in refused.output
    assert not isinstance(refused.exception, DictionaryError), "a sentence, no stack trace"


def test_a_hub_that_does_not_answer_is_not_waited_for(saes, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    monkeypatch.setattr(hub_ranges, "_TRIES", 1)
    saes.handler.lame = 0.5
    with pytest.raises(DictionaryError, match="timed out"):
        look(NAME, open_coder)


@pytest.mark.parametrize(
    "fixture",
    ["saelens_v6_topk", "gemma_scope_1_res", "dl_batchtopk", "goodfire_llama_8b", "llama_scope"],
)
@pytest.mark.parametrize("share", [0.9, 0.02, 0.0])
def test_a_file_cut_short_at_the_hub_is_told_in_a_sentence(
    fixture, share, everything, tmp_path, monkeypatch
):
    monkeypatch.setattr(hub_resume, "LARGE", 0)  # or what is left would be downloaded
    repo, name = name_on_hub(fixture)
    shutil.copytree(everything.handler.repos[repo], tmp_path / "cut")
    everything.handler.repos[repo] = tmp_path / "cut"
    weights = max((tmp_path / "cut").rglob("*"), key=lambda path: path.stat().st_size)
    weights.write_bytes(weights.read_bytes()[: int(share * weights.stat().st_size)])
    refused = run(name)
    assert refused.exit_code == 1
    assert refused.output.startswith("steerdeck: ")
    assert "Traceback" not in refused.output
    assert str(tmp_path) not in refused.output.replace("\n", ""), "a folder that is gone"


def test_the_command_says_what_was_left_unread_and_json_keeps_its_shape(saes):
    said = run(NAME)
    assert "revision       unknown: its weights were not downloaded" in said.output
    assert f"org/saes@{COMMITS['main']}/blocks.12" in said.output
    found = json.loads(run(NAME, "--json").stdout)
    on_disk = json.loads(run(str(place("saelens_v6_topk")), "--json").stdout)
    assert [*found] == [*on_disk]
    assert found["revision"] is None
    differ = {key for key in found if found[key] != on_disk[key]}
    assert differ == {"path", "revision", "source"}
