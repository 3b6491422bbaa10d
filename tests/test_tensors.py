"""Reading parts of tensors: rows, columns and blocks of every kind of file, and no more."""

from __future__ import annotations

import mmap
import random

import numpy as np
import pytest
import small_sae
import torch
from safetensors.torch import save_file

from dictionaries import tensors, torch_files
from dictionaries.containers import open_tensors

counted = small_sae.counted  # fixture

KINDS = ["safetensors", "npz", "fortran npz", "pt", "transposed pt"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(k, d) for k in KINDS for d in DTYPES if not ("npz" in k and d is torch.bfloat16)],
)
def test_rows_columns_and_blocks_are_those_of_the_whole(kind, dtype, tmp_path):
    whole = torch.randn(37, 53).to(dtype)
    path = tmp_path / f"file.{kind.split()[-1]}"
    if kind == "safetensors":
        save_file({"other": torch.zeros(3), "m": whole}, path)
    elif kind.endswith("pt"):
        torch.save({"m": whole.T.contiguous().T if "transposed" in kind else whole}, path)
    else:
        array = np.asfortranarray(whole.numpy()) if "fortran" in kind else whole.numpy()
        np.savez(path, first=np.zeros(5), m=array)
    stored, wanted = open_tensors(path)["m"], whole.float()
    assert stored.shape == (37, 53)
    assert torch.equal(stored.load(), wanted)
    for axis, oriented in ((0, wanted), (1, wanted.T)):
        for ids in ([], [0], [5, 5, 2], list(range(30, 10, -3))):
            picked = stored.gather(axis, ids)
            assert torch.equal(picked, oriented[ids])
            assert picked.dtype is torch.float32
        assert torch.equal(stored.block(axis, 4, 31), oriented[4:31])


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_whole_numbers_without_a_sign_are_read(dtype, tmp_path):
    ids = torch.tensor([[1, 2, 60000], [4, 5, 6]])
    save_file({"tokens": ids.to(dtype)}, tmp_path / "examples.safetensors")
    stored = open_tensors(tmp_path / "examples.safetensors")["tokens"]
    assert torch.equal(stored.gather(0, [1, 0]), ids[[1, 0]].float())
    assert torch.equal(stored.load(), ids.float())


def test_a_torch_file_is_read_like_any_other_and_not_through_its_map(tmp_path, counted):
    whole = torch.randn(40, 30)
    saved = {f"v{i}": torch.randn(30) for i in range(40)}  # many of one size: which is which?
    saved |= {"m": whole, "part": whole[7:19], "every other": whole[:, ::2], "empty": whole[:0]}
    torch.save(saved, tmp_path / "m.pt")
    stored = open_tensors(tmp_path / "m.pt")
    for name, tensor in saved.items():
        assert torch.equal(stored[name].load(), tensor), name
    mapped = {name for name, one in stored.items() if not isinstance(one, tensors.FileTensor)}
    assert mapped == {"every other", "empty"}
    counted.clear()
    stored["part"].block(0, 2, 3)
    assert [length for _, length in counted] == [4 * 30]


def test_a_torch_file_whose_places_cannot_be_told_is_read_through_its_map(tmp_path, monkeypatch):
    torch.save({"m": torch.randn(40, 30)}, tmp_path / "m.pt")
    (place,) = torch_files._data(tensors.File(tmp_path / "m.pt"))[4800]
    either = {4800: {place, place + mmap.PAGESIZE}}
    monkeypatch.setattr(torch_files, "_data", lambda file: either)
    stored = open_tensors(tmp_path / "m.pt")["m"]
    assert isinstance(stored, tensors.MappedTensor)


@pytest.mark.parametrize("buffer", [64, 4096, 2**20])
@pytest.mark.parametrize("gap", [1, 40, 4096])
def test_columns_are_gathered_whatever_the_buffer_and_gap(buffer, gap, tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "BUFFER", buffer)
    monkeypatch.setattr(tensors, "GAP", gap)
    whole = torch.randn(19, 400)
    save_file({"m": whole}, tmp_path / "m.safetensors")
    stored = open_tensors(tmp_path / "m.safetensors")["m"]
    rng = random.Random(0)
    for _ in range(20):
        ids = [rng.randrange(400) for _ in range(rng.randint(1, 30))]
        assert torch.equal(stored.gather(1, ids), whole.T[ids])


def test_a_column_is_read_element_by_element_and_many_in_one_pass(tmp_path, counted):
    save_file({"m": torch.randn(50, 100_000)}, tmp_path / "m.safetensors")
    stored = open_tensors(tmp_path / "m.safetensors")["m"]
    counted.clear()
    stored.gather(1, [7])
    assert [length for _, length in counted] == [4] * 50
    counted.clear()
    stored.gather(1, [90_000, 7])
    assert [length for _, length in counted] == [4] * 100, "nothing between them is read"
    counted.clear()
    stored.gather(1, list(range(0, 100_000, 100)))
    assert len(counted) == 50, "neighbours less than GAP apart are read in one go"
    assert sum(length for _, length in counted) <= 50 * 100_000 * 4
