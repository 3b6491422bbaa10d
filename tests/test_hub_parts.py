"""`dictionaries inspect NAME`: what a dictionary on the hub is, without downloading its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import hub_published
import numpy as np
import pytest
import torch
from hub_published import PUBLISHED, name_on_hub
from hub_stub import COMMITS
from published import FIXTURES, missing_scale, place
from safetensors.torch import load_file, save_file

from dictionaries import absent, hub_parts
from dictionaries.about import about
from dictionaries.absent import Absent, at, known
from dictionaries.asked import Asked
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_coder
from dictionaries.hub import find_files, origin
from dictionaries.hub_parts import look

hub = hub_published.hub  # fixture
everything = hub_published.everything  # fixture

LITTLE = 160 * 2**10  # bytes of the weights of 8,192 features x 256 numbers; they are 17 MB


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
