"""A repository of two dictionaries on the stub hub, and an empty cache."""

from __future__ import annotations

import shutil

import pytest
from hub_stub import point_at, running
from huggingface_hub import constants
from published import FIXTURES

from dictionaries import hub_resume


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running stub hub with one repository of two dictionaries, and an empty cache."""
    repo = tmp_path / "saes"
    for place, name in (("layer_1", "saelens_v6_topk"), ("layer_12", "saelens_v6_standard")):
        source = next(FIXTURES.glob(f"{name}/*/blocks.12.hook_resid_post"))
        shutil.copytree(source, repo / "res" / place)
    (repo / "res/layer_1" / "examples.safetensors").write_bytes(b"far too big")
    (repo / "config.json").write_text("{}")
    (repo / "model.safetensors").write_bytes(b"weights")
    (repo / "pytorch_model.bin").write_bytes(b"a pickle")
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)  # what of a cut file is kept
    monkeypatch.setattr(hub_resume, "LARGE", 1000)
    with running({"org/saes": repo, "org/gated": repo}) as server:
        point_at(server, tmp_path / "cache", monkeypatch)
        yield server


def stop(hub):
    hub.shutdown()
    hub.server_close()


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
