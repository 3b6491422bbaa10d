"""Every published layout on the stub hub: each fixture a repository of its own."""

from __future__ import annotations

import tempfile

import pytest
from hub_stub import point_at, running
from published import FIXTURES, meta

from dictionaries import absent, hub_resume, torch_files

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
