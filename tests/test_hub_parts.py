"""`dictionaries inspect NAME`: what a dictionary on the hub is, without downloading its weights."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_stub import COMMITS, point_at, running
from huggingface_hub import constants
from published import FIXTURES, meta, missing_scale, place
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from dictionaries import absent, hub_parts, hub_ranges, hub_resume, torch_files
from dictionaries.about import about
from dictionaries.absent import Absent, at, known
from dictionaries.asked import Asked
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_coder
from dictionaries.hub import find_files, origin
from dictionaries.hub_parts import look
from server.cli import app

LITTLE = 160 * 2**10  # bytes of the weights of 8,192 features x 256 numbers; they are 17 MB
PUBLISHED = sorted(
    path.parent.name for path in FIXTURES.glob("*/meta.json") if "entry" in meta(path.parent.name)
)
PUBLISHED.remove("neuronpedia_export")  # labels, and no dictionary


def name_on_hub(fixture):
    """(repository, name of the dictionary in it): each fixture is a repository of its own."""
    repo = f"{fixture}/{meta(fixture)['repo_id'].rpartition('/')[2]}"
    entry = meta(fixture)["entry"]
    return repo, repo if entry == "." else f"{repo}/{entry}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stub hub without repositories, an empty cache, and temporary files to be looked at."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with running({}) as server:
        point_at(server, tmp_path / "cache", monkeypatch)
        yield server


@pytest.fixture
def everything(hub, monkeypatch):
    """Every published layout; its few kilobytes count as large, and blocks are smaller still."""
    monkeypatch.setattr(hub_resume, "LARGE", 500)
    monkeypatch.setattr(absent, "BLOCK", 64)
    monkeypatch.setattr(torch_files, "_TAIL", 64)
    for fixture in PUBLISHED:
        repo, _ = name_on_hub(fixture)
        hub.handler.repos[repo] = FIXTURES / fixture / repo.partition("/")[2]
    return hub


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


def wider(fixture, folder):
    """A copy of a fixture's repository with each 16 made 256, and each 64 made 8192."""
    grown = {16: 256, 64: 8192}

    def widened(shape):
        return [grown.get(n, n) for n in shape]

    source = place(fixture)
    shutil.copytree(FIXTURES / fixture / name_on_hub(fixture)[0].partition("/")[2], folder)
    weights = folder / source.relative_to(FIXTURES / fixture).relative_to(
        source.relative_to(FIXTURES / fixture).parts[0]
    )
    for path in list((weights.parent if weights.is_file() else weights).iterdir()):
        if path.suffix == ".safetensors":
            tensors = load_file(path)
            save_file({n: torch.zeros(widened(t.shape)) for n, t in tensors.items()}, path)
        elif path.suffix == ".npz":
            arrays = {n: np.zeros(widened(a.shape), a.dtype) for n, a in np.load(path).items()}
            np.savez(path, **arrays)
        elif path.suffix in (".pt", ".pth"):
            content = torch.load(path)
            made = {n: torch.zeros(widened(t.shape)) if t.dim() else t for n, t in content.items()}
            torch.save(made, path)
        elif path.suffix == ".json":
            config = json.loads(path.read_text(), parse_int=lambda n: grown.get(int(n), int(n)))
            path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    "fixture",
    [
        "saelens_v6_jumprelu",
        "gemma_scope_1_res",
        "gemma_scope_2_resid_post",
        "sparsify_sae_v1",
        "dl_batchtopk",
        "goodfire_llama_8b",
        "qwen_scope",
    ],
)
def test_of_the_weights_only_what_opening_reads_is_fetched(fixture, hub, tmp_path):
    repo, name = name_on_hub(fixture)
    wider(fixture, tmp_path / "repo")
    hub.handler.repos[repo] = tmp_path / "repo"
    hub.handler.tag = lambda _, file: f"{file.stat().st_size:040d}"
    seen = look(name, open_coder)
    size = max(path.stat().st_size for path in (tmp_path / "repo").rglob("*"))
    sent = sum(count for file, count in hub.handler.sent.items() if not file.endswith(".json"))
    assert size > 16_000_000
    assert 8_192 < sent < LITTLE, f"{sent} bytes in {len(hub.handler.ranges)} parts"
    assert seen["d_sae"] == 8192
    assert not list((tmp_path / "tmp").iterdir()), "nothing is left behind"
    assert not (tmp_path / "cache").exists(), "half a dictionary is none of the cache's"
    assert seen == {**about(open_coder(find_files(name, kind="dictionary"))), **differs(seen)}


def differs(seen):
    """What is otherwise said of a dictionary whose weights are here."""
    return {key: seen[key] for key in ("path", "revision")}


def in_cache(fixture, folder):
    """The dictionary's path as it would be in a cache that had the repository whole."""
    repo, name = name_on_hub(fixture)
    snapshot = folder / f"models--{repo.replace('/', '--')}" / "snapshots" / COMMITS["main"]
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(FIXTURES / fixture / repo.partition("/")[2])
    return snapshot / name.removeprefix(repo).strip("/")


@pytest.mark.parametrize("fixture", PUBLISHED)
def test_what_is_said_is_what_is_said_of_the_same_files_on_disk(fixture, everything, tmp_path):
    _, name = name_on_hub(fixture)
    opened = Asked(name, norm_scaling_factor=missing_scale(fixture)).open_coder
    told = []
    seen = look(name, opened, instead=told.append)
    assert told == []
    on_disk = about(opened(in_cache(fixture, tmp_path)))
    assert (seen["path"], seen["revision"]) == (origin(Path(on_disk["path"])), None)
    on_disk["steering"]["why_not"] = on_disk["steering"]["why_not"].replace(
        on_disk["path"], seen["path"]
    )
    assert seen == {**on_disk, **differs(seen)}


def test_a_file_that_has_to_be_read_whole_is_and_one_too_large_for_that_is_downloaded(
    everything, tmp_path, monkeypatch
):
    """A tensor of torch's in an odd order, which lies nowhere in one piece, is read of a map."""
    repo, name = name_on_hub("goodfire_llama_8b")
    shutil.copytree(everything.handler.repos[repo], tmp_path / "odd")
    everything.handler.repos[repo] = tmp_path / "odd"
    (file,) = (tmp_path / "odd").glob("*.pth")
    state = torch.load(file)
    state["encoder_linear.bias"] = torch.zeros(128)[::2]
    torch.save(state, file)
    told = []
    assert look(name, open_coder, instead=told.append)["revision"] is None
    state["encoder_linear.bias"][3] = torch.nan
    torch.save(state, file)
    with pytest.raises(DictionaryError, match="holds NaN"):
        look(name, open_coder, instead=told.append)
    assert told == []
    state["encoder_linear.bias"][3] = 0
    torch.save(state, file)
    monkeypatch.setattr(hub_parts, "_MOST", 2000)
    seen = look(name, open_coder, progress=False, instead=told.append)
    assert len(seen["revision"]) == 16
    assert len(told) == 1
    assert "is downloaded, because opening it reads" in told[0]


@pytest.mark.parametrize("fixture", ["saelens_v6_temporal", "temporal_hub"])
def test_the_attention_of_a_temporal_sae_stays_where_it_is(fixture, everything):
    """It is most of the file, and only what computes with it reads it."""
    look(name_on_hub(fixture)[1], open_coder)
    ((file, sent),) = [f for f in everything.handler.sent.items() if f[0].endswith("tensors")]
    repo = everything.handler.repos[name_on_hub(fixture)[0]]
    assert sent < 0.2 * (repo / file).stat().st_size


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
    assert {key for key in found if found[key] != on_disk[key]} == {"path", "revision"}


def test_a_stand_in_reads_like_the_file_and_fetches_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(absent, "BLOCK", 10)
    content, asked = bytes(range(256)) * 4, []

    def read(start, stop):
        asked.append((start, stop))
        return content[start:stop]

    path = tmp_path / "there" / "file"
    with known([Absent(path, len(content), read)]):
        from dictionaries.tensors import File

        file = File(path)
        for start, stop in [(3, 4), (15, 37), (0, 40), (1001, 1024), (500, 500), (0, 1024)]:
            assert file.read(start, stop - start) == content[start:stop]
        with pytest.raises(DictionaryError, match="ends before byte 1050"):
            file.read(1020, 30)
    assert asked == [(0, 10), (10, 40), (1000, 1024), (40, 1000)]
    assert at(path) is None
