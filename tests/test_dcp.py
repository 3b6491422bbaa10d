"""Checkpoints of torch.distributed.checkpoint: cut in pieces by many processes, read as one."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shutil
import zipfile

import pytest
import torch
import torch.distributed.checkpoint as dcp
from published import expected, place
from safetensors.torch import load_file

from dictionaries.containers import open_tensors
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_coder, open_dictionary
from dictionaries.pickles import read_metadata
from dictionaries.sharded import ShardedTensor
from dictionaries.tensors import File, MappedTensor

NAME = "llamascopium_dcp"  # saved by two processes
WHOLE = load_file(place("llamascopium_jumprelu") / "sae_weights.safetensors")
alone = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(place(NAME), tmp_path / "sae")


@pytest.fixture
def checkpoint(folder):
    return folder / "sae_weights.dcp"


@pytest.fixture
def read(monkeypatch):
    """How many bytes each reading of a file took."""
    found, plain = [], File.read_into

    def counted(self, buffer, offset):
        found.append(len(buffer))
        plain(self, buffer, offset)

    monkeypatch.setattr(File, "read_into", counted)
    return found


def edit(checkpoint, change):
    """Have torch's own metadata say something else."""
    path = checkpoint / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))


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


def put(checkpoint, name, piece):
    """Let the one piece of a tensor be another."""
    file = checkpoint / "__0_0.distcp"
    start = file.stat().st_size
    file.write_bytes(file.read_bytes() + piece)

    def there(metadata):
        (place,) = (p for index, p in metadata.storage_data.items() if index.fqn == name)
        place.relative_path, place.offset, place.length = file.name, start, len(piece)

    edit(checkpoint, there)


def test_a_piece_may_be_a_part_of_what_was_saved_with_it(checkpoint):
    piece = io.BytesIO()
    torch.save(torch.arange(20.0)[3:19], piece)
    put(checkpoint, "b_D", piece.getvalue())
    assert torch.equal(open_tensors(checkpoint)["b_D"].load(), torch.arange(3.0, 19.0))


def test_a_piece_that_says_more_than_it_holds_is_refused(checkpoint):
    saved, piece = io.BytesIO(), io.BytesIO()
    torch.save(torch.arange(20.0)[3:19], saved)
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(piece, "w") as short:
        short.writestr("archive/data.pkl", whole.read("archive/data.pkl"))
        short.writestr("archive/data/0", bytes(4 * 18))
    put(checkpoint, "b_D", piece.getvalue())
    with pytest.raises(DictionaryError, match="a piece of 'b_D' is longer than its storage"):
        open_tensors(checkpoint)


class Trap:
    """What a pickle can do to those who load it."""

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("where", [".metadata", "data.pkl"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not_run(where, checkpoint, tmp_path):
    trap = Trap()
    trap.path = str(tmp_path / "sprung")
    if where == ".metadata":
        edit(checkpoint, lambda metadata: setattr(metadata, "planner_data", trap))
    else:
        piece = io.BytesIO()
        with zipfile.ZipFile(piece, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(trap))
            archive.writestr("archive/data/0", bytes(64))
        put(checkpoint, "b_D", piece.getvalue())
    with pytest.raises(DictionaryError, match=r"it names posix\.mkdir"):
        open_tensors(checkpoint)
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_changes_nothing_for_those_that_are_read_after_it():
    size = b"ctorch\nSize\n"
    state = b"N}X\x0c\x00\x00\x00__defaults__K\x07\x85\x85s\x86b"  # (None, {name: ((7,),)})
    with pytest.raises(pickle.UnpicklingError, match="it is no metadata"):
        read_metadata(b"\x80\x02" + size + state + b".")
    named = b"ctorch.distributed.checkpoint.metadata\nMetadata\n)\x81"
    made = read_metadata(b"\x80\x02" + named + b"}X\x01\x00\x00\x00s" + size + b")Rsb.")
    assert made["s"] == ()


def without_a_piece(metadata):
    tensor = metadata.state_dict_metadata["W_D"]
    for index in [
        i for i in metadata.storage_data if i.fqn == "W_D" and i.offset == tensor.chunks[1].offsets
    ]:
        del metadata.storage_data[index]


def elsewhere(metadata):
    next(iter(metadata.storage_data.values())).relative_path = "../config.json"


def compressed(metadata):
    next(iter(metadata.storage_data.values())).transform_descriptors = ["zstandard"]


def too_long(metadata):
    next(iter(metadata.storage_data.values())).length = 10**9


def longer_than_its_pieces(metadata):
    metadata.state_dict_metadata["W_D"].size = torch.Size([65, 16])


def negative(metadata):
    next(iter(metadata.storage_data.values())).offset = -1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            without_a_piece,
            r"W_D.* has shape \[64, 16\], but its pieces are not .*dcp_to_torch_save",
        ),
        (longer_than_its_pieces, r"W_D.* has shape \[65, 16\], but its pieces"),
        (elsewhere, "outside of its folder"),
        (compressed, r"is compressed.*dcp_to_torch_save\('sae_weights.dcp', 'sae_weights.pt'\)"),
        (too_long, "has .* bytes, and none from"),
        (negative, "not whole numbers"),
    ],
)
def test_metadata_that_does_not_fit_is_refused_with_a_sentence(change, said, checkpoint):
    edit(checkpoint, change)
    with pytest.raises(DictionaryError, match=said):
        open_tensors(checkpoint)


def test_what_is_damaged_is_told_in_a_sentence(checkpoint):
    """Wherever it is; a byte of the numbers themselves is nobody's to know."""
    for file in (checkpoint / ".metadata", checkpoint / "__1_0.distcp"):
        whole = file.read_bytes()
        for at in range(0, len(whole), 131):
            for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
                file.write_bytes(damaged)
                with contextlib.suppress(DictionaryError):
                    for tensor in open_tensors(checkpoint).values():
                        tensor.load()
        file.write_bytes(whole)
    (checkpoint / "__0_0.distcp").unlink()
    with pytest.raises(DictionaryError, match=r"__0_0\.distcp cannot be opened"):
        open_tensors(checkpoint)
