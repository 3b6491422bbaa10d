"""The checkpoints of `fixtures/`: where each lies, what it should compute, copies to spoil."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dictionaries.dictionary import Dictionary
from dictionaries.formats import open_dictionary

FIXTURES = Path(__file__).parent / "fixtures"
IDS = [3, 17, 40, 41, 60, 5, 63, 0]  # of features, in no order


def meta(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FIXTURES / name / "meta.json").read_text())
    return found


def place(name: str) -> Path:
    """The folder or file to open, under its repository's name."""
    about = meta(name)
    return FIXTURES / name / about["repo_id"].split("/")[-1] / about["entry"]


def expected(name: str) -> dict[str, torch.Tensor]:
    """x, acts, recon and more, of the format's own library."""
    return load_file(FIXTURES / name / "expected.safetensors")


def missing_scale(name: str) -> float | None:
    """What its files lack; Llama Scope's, which meta tells too, is in them."""
    told: float | None = meta(name).get("norm_scaling_factor")
    return told if name.startswith("saelens") else None


def opened(name: str) -> Dictionary:
    return open_dictionary(place(name), norm_scaling_factor=missing_scale(name))


def copied(name: str, folder: Path) -> Path:
    """A fixture's file or folder, its neighbours with it."""
    source = place(name)
    shutil.copytree(source if source.is_dir() else source.parent, folder, dirs_exist_ok=True)
    return folder if source.is_dir() else folder / source.name


def changed(name: str, folder: Path, file: str, **keys: Any) -> Path:
    """A copy of a fixture's own folder with keys of one of its configs changed (None: removed)."""
    copy = folder / place(name).name
    if not copy.exists():
        shutil.copytree(place(name), copy)
    config = json.loads((copy / file).read_text())
    for key, value in keys.items():
        target = config["trainer"] if key in config.get("trainer", {}) else config
        target[key] = value
        if value is None:
            del target[key]
    (copy / file).write_text(json.dumps(config))
    return copy


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Weights of Llama Scope's as two processes saved them: a folder in the dictionary's own."""
    return copied("llamascopium_dcp", tmp_path / "sae") / "sae_weights.dcp"
