"""Checkpoints in pieces that are not as they were saved: odd, damaged or out to run code."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile

import published
import pytest
import torch

from dictionaries.containers import open_tensors
from dictionaries.errors import DictionaryError
from dictionaries.pickles import read_metadata

checkpoint = published.checkpoint  # fixture


def edit(checkpoint, change):
    """Have torch's own metadata say something else."""
    path = checkpoint / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))


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
            r"W_D.* has shape \[64, 16\], but its pieces do not .*dcp_to_torch_save",
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
