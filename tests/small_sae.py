"""A small JumpReLU SAE on disk, in SAELens' format: to read of, to damage and to pack."""

from __future__ import annotations

import json
import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from dictionaries import tensors
from dictionaries.edits import FeatureRows
from dictionaries.formats import open_dictionary

D_IN, D_SAE = 24, 300


def write_sae(folder, dtype=torch.float32, **changes):
    """The opened dictionary. dtype: of its matrices; changes: tensors instead of its own."""
    g = torch.Generator().manual_seed(5)
    stored = {
        "W_enc": torch.randn(D_IN, D_SAE, generator=g).to(dtype),
        "W_dec": torch.randn(D_SAE, D_IN, generator=g).to(dtype),
        "b_enc": torch.randn(D_SAE, generator=g),
        "b_dec": torch.randn(D_IN, generator=g),
        "threshold": torch.rand(D_SAE, generator=g),
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(stored, folder / "sae_weights.safetensors")
    config = {"architecture": "jumprelu", "hook_name": "blocks.3.hook_resid_post", "k": 7}
    (folder / "cfg.json").write_text(json.dumps(config))
    return open_dictionary(folder)


@pytest.fixture
def folder(tmp_path):
    write_sae(tmp_path / "sae")
    return tmp_path / "sae"


@pytest.fixture
def source(tmp_path):
    return write_sae(tmp_path / "sae")


@pytest.fixture
def counted(monkeypatch):
    """Bytes that `dictionaries` reads from files, by place: [(offset, length)]."""
    reads = []
    real = os.preadv

    def preadv(fd, buffers, offset):
        reads.append((offset, sum(map(len, buffers))))
        return real(fd, buffers, offset)

    monkeypatch.setattr(tensors.os, "preadv", preadv)
    return reads


def with_header(header, data):
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def same(one: FeatureRows, other: FeatureRows) -> bool:
    names = ("enc", "gain", "offset", "gate", "threshold", "dec")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)
