"""The hub's files lie on other hosts, and its repositories change their names: we follow."""

from __future__ import annotations

import shutil

import pytest
from hub_stub import point_at, running
from huggingface_hub import constants
from published import place

from dictionaries import absent, hub_ranges, hub_resume
from dictionaries.about import about
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_coder, open_dictionary
from dictionaries.hub import find_files
from dictionaries.hub_parts import look

NAME = "org/saes/blocks.12.hook_resid_post"
WEIGHTS = "blocks.12.hook_resid_post/sae_weights.safetensors"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """One repository of one dictionary, whose few kilobytes count as large."""
    monkeypatch.setattr(hub_resume, "LARGE", 500)
    monkeypatch.setattr(absent, "BLOCK", 64)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    repo = tmp_path / "saes"
    shutil.copytree(place("saelens_v6_topk").parent, repo)
    with running({"org/saes": repo, "org/gated": repo}) as server:
        point_at(server, tmp_path / "cache", monkeypatch)
        yield server


def downloaded(name):
    return about(open_coder(find_files(name, kind="dictionary", progress=False)))


def in_parts(name):
    """What `look` says; without a download, or it fails."""
    return look(name, open_coder, progress=False, instead=pytest.fail)


@pytest.mark.parametrize("way", [downloaded, in_parts])
def test_a_token_opens_the_hub_and_goes_to_no_other_host(way, hub, monkeypatch):
    """The other host refuses whoever shows one."""
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert way(NAME)["architecture"] == "topk"
    assert hub.handler.tokens == {"Bearer hf_mine"}
    elsewhere = [path for path in hub.handler.asked if "Signature" in path]
    assert elsewhere, "the weights came from the other host"


@pytest.mark.parametrize("way", [downloaded, in_parts])
def test_a_repository_is_found_under_its_old_name(way, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    hub.handler.renamed["older/name"] = "org/saes"
    hub.handler.renamed["oldest/name"] = "older/name"
    for name in ("older/name", "oldest/name"):
        assert way(NAME.replace("org/saes", name)) == {
            **(new := way(NAME)),
            "path": new["path"]
            .replace("org/saes", name)
            .replace("org--saes", name.replace("/", "--")),
            "source": new["source"].replace("org/saes", name),
        }


@pytest.mark.parametrize("way", [downloaded, in_parts])
@pytest.mark.parametrize(
    ("token", "said"),
    [(None, "is gated: accept its licence"), ("hf_mine", "token in use was not let in")],
)
def test_a_gated_repository_is_told_with_a_token_and_without(way, token, said, hub, monkeypatch):
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DictionaryError, match=said):
        way(NAME.replace("org/saes", "org/gated"))


@pytest.mark.parametrize("token", [None, "hf_mine"])
@pytest.mark.parametrize("way", [downloaded, in_parts])
def test_a_repository_that_is_none_is_told_with_a_token_and_without(way, token, hub, monkeypatch):
    """The hub tells nobody without a token that there is none: it might be private."""
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DictionaryError, match="org/none was not found at"):
        way(NAME.replace("org/saes", "org/none"))


def test_what_is_said_to_be_had_of_xet_comes_by_http_all_the_same(hub):
    """Nearly every large file of the hub is; here nothing would answer for Xet."""
    hub.handler.xet = True
    assert in_parts(NAME)["architecture"] == "topk"
    assert downloaded(NAME)["architecture"] == "topk"
    assert hub.handler.sent[WEIGHTS] >= (hub.handler.repos["org/saes"] / WEIGHTS).stat().st_size


def test_a_download_is_taken_up_again_where_no_parts_are_served(hub):
    """What had come is of no use then, and not left in the file either."""
    hub.handler.cuts[:], hub.handler.breaks = [700], (True,)
    with pytest.raises(DictionaryError, match="start again"):
        downloaded(NAME)
    kept = (hub.handler.repos["org/saes"].parent / "cache").rglob("*.partial")
    (partial,) = (path for path in kept if path.stat().st_size == 700)
    hub.handler.down.clear()
    hub.handler.ranged = False
    assert downloaded(NAME)["architecture"] == "topk"
    assert not partial.exists()


def test_another_part_than_was_asked_for_is_not_taken_for_it(hub):
    """A cache between that answers with what it has: then all of it is downloaded."""
    told = []
    serve = hub.handler.serve

    def misplaced(self, name, body, headers):
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            self.headers.replace_header("Range", f"bytes={int(first) + 8}-{int(last) + 8}")
        return serve(self, name, body, headers)

    hub.handler.serve = misplaced
    seen = look(NAME, open_coder, progress=False, instead=told.append)
    assert seen["revision"]
    assert "answers with bytes" in told[0]
    assert open_dictionary(seen["path"]).info.k == 6


def test_more_than_was_asked_for_is_not_read(hub, monkeypatch):
    """It may be gigabytes; whoever announces them need not even have them."""
    monkeypatch.setattr(hub_ranges.time, "sleep", lambda _: None)
    reply = hub.handler.reply

    def longer(self, body, headers=None, status=200):
        more = {"Content-Length": str(10**10)} if status == 206 else {}
        reply(self, body, (headers or {}) | more, status)

    hub.handler.reply = longer
    with pytest.raises(DictionaryError, match=r"10000000000 bytes came where \d+ were asked for"):
        in_parts(NAME)
