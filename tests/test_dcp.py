"""Checkpoints of torch.distributed.checkpoint: cut in pieces by many processes, read as one."""

from __future__ import annotations

import shutil

import published
import pytest
import torch
import torch.distributed.checkpoint as dcp
from published import expected, place
from safetensors.torch import load_file

from dictionaries.containers import open_tensors
from dictionaries.formats import open_coder, open_dictionary
from dictionaries.sharded import ShardedTensor
from dictionaries.tensors import File, MappedTensor

checkpoint = published.checkpoint  # fixture

NAME = "llamascopium_dcp"  # saved by two processes
WHOLE = load_file(place("llamascopium_jumprelu") / "sae_weights.safetensors")
alone = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


@pytest.fixture
def folder(checkpoint):
    return checkpoint.parent


@pytest.fixture
def read(monkeypatch):
    """How many bytes each reading of a file took."""
    found, plain = [], File.read_into

    def counted(self, buffer, offset):
        found.append(len(buffer))
        plain(self, buffer, offset)

    monkeypatch.setattr(File, "read_into", counted)
    return found


def test_the_pieces_are_the_tensors_they_were_cut_of(checkpoint):
    found = open_tensors(checkpoint)
    assert {name: tuple(t.shape) for name, t in WHOLE.items()} == {
        n: t.shape for n, t in found.items()
    }
    for name, tensor in WHOLE.items():
        assert torch.equal(found[name].load(), tensor)
    assert isinstance(found["W_E"], ShardedTensor)
    assert isinstance(found["W_D"], ShardedTensor)


@pytest.mark.parametrize(
    ("name", "axis", "size"),
    [("W_D", 0, 4 * 16), ("W_E", 1, 4 * 16), ("W_E", 0, 4 * 64), ("W_D", 1, 4 * 64)],
)
def test_a_row_is_read_of_the_piece_it_lies_in(name, axis, size, checkpoint, read):
    stored = open_tensors(checkpoint)[name]
    read.clear()
    rows = WHOLE[name] if axis == 0 else WHOLE[name].T
    assert torch.equal(stored.gather(axis, [13]), rows[[13]])
    assert sum(read) == size


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("turned", [False, True])
def test_a_matrix_in_pieces_reads_like_one(axis, turned):
    whole = torch.randn(12, 10)
    cuts = whole.split([5, 1, 4] if axis else [1, 8, 3], dim=axis)
    parts = [
        MappedTensor("W", cut.T.contiguous().T if turned else cut.contiguous()) for cut in cuts
    ]
    pieces = ShardedTensor("W", parts, axis)
    assert pieces.shape == (12, 10)
    assert torch.equal(pieces.load(), whole)
    for of, size in ((0, 12), (1, 10)):
        rows = whole if of == 0 else whole.T
        for ids in ([], [0], [size - 1, 0, 5, 5], [*reversed(range(size))]):
            assert torch.equal(pieces.gather(of, ids), rows[ids])
        for start in range(size + 1):
            for stop in range(start, size + 1):
                assert torch.equal(pieces.block(of, start, stop), rows[start:stop])
                assert torch.equal(pieces.raw(of, start, stop), rows[start:stop])
        assert pieces.contiguous(of) == (of == axis == (1 if turned else 0))


def test_a_vector_in_pieces_reads_like_one():
    whole = torch.randn(9)
    pieces = ShardedTensor("b", [MappedTensor("b", part) for part in whole.split([2, 3, 4])], 0)
    for start in range(10):
        for stop in range(start, 10):
            assert torch.equal(pieces.span(start, stop), whole[start:stop])


def test_a_tensor_of_three_axes_in_pieces_is_flattened_like_one():
    whole = torch.randn(6, 3, 4)
    parts = [MappedTensor("W", part) for part in whole.split(2)]
    flat = ShardedTensor("W", parts, 0).flattened()
    assert torch.equal(flat.gather(0, [5, 1]), whole.flatten(1)[[5, 1]])


@alone
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_what_one_process_saved_is_read_in_its_type_and_order(dtype, tmp_path):
    tensors = {
        "plain": torch.randn(4, 6).to(dtype),
        "turned": torch.randn(6, 4).to(dtype).T,
        "single": torch.randn(1, 6).to(dtype),
        "part": torch.randn(9, 6).to(dtype)[3:7],
        "vector": torch.randn(5).to(dtype),
        "number": torch.tensor(2.5, dtype=dtype),
    }
    dcp.save({**tensors, "k": 5}, checkpoint_id=tmp_path / "x.dcp", no_dist=True)
    found = open_tensors(tmp_path / "x.dcp")
    assert {*found} == {*tensors}, "what is no tensor is left out"
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (dtype, tuple(tensor.shape))
        assert torch.equal(found[name].load(), tensor.float())
    for name in ("plain", "turned", "part"):
        assert torch.equal(found[name].gather(0, [3, 0]), tensors[name][[3, 0]].float())
        assert torch.equal(found[name].gather(1, [3, 0]), tensors[name].T[[3, 0]].float())


@alone
def test_of_the_matrices_only_what_is_asked_for_is_read(tmp_path, read):
    wide = {"W_D": torch.randn(4096, 64), "W_E": torch.randn(64, 4096)}
    wide |= {"b_E": torch.randn(4096), "b_D": torch.randn(64)}
    sizes = (("activation_function.log_jumprelu_threshold", 4096),)
    norm = "dataset_average_activation_norm.blocks.10.hook_resid_post"
    state = {**wide, **{name: torch.randn(n) for name, n in sizes}, norm: torch.tensor(8.0)}
    shutil.copytree(place(NAME), tmp_path / "sae")
    shutil.rmtree(tmp_path / "sae/sae_weights.dcp")
    config = tmp_path / "sae/config.json"
    config.write_text(config.read_text().replace('"d_model": 16', '"d_model": 64'))
    dcp.save(state, checkpoint_id=tmp_path / "sae/sae_weights.dcp", no_dist=True)
    opened = open_dictionary(tmp_path / "sae")
    assert sum(read) < 4 * 4096 * 3 + 40_000, "the vectors, and headers"
    read.clear()
    rows = opened.rows([7, 4000])
    assert torch.allclose(rows.dec[1], wide["W_D"][4000] * rows.dec[1, 0] / wide["W_D"][4000, 0])
    assert sum(read) < 4 * 64 * 4096, "a row each, and the stretches that hold the columns"


@pytest.mark.parametrize("path", [".", "sae_weights.dcp", "sae_weights.dcp/.metadata"])
def test_the_dictionary_is_named_by_its_folder_or_by_what_lies_in_it(path, folder):
    acts, recon = open_coder(folder / path).coded(expected(NAME)["x"])
    torch.testing.assert_close(acts, expected(NAME)["acts"])
    torch.testing.assert_close(recon, expected(NAME)["recon"])


def test_the_revision_is_of_every_piece(folder, checkpoint):
    before = open_dictionary(folder).info.revision
    last = checkpoint / "__1_0.distcp"
    last.write_bytes(last.read_bytes() + b"\0")
    assert open_dictionary(folder).info.revision != before
