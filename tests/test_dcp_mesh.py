"""Checkpoints that a mesh of processes saved: tensors cut into strips, and those along the other
axis.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import published
import pytest
import torch
from published import expected, place
from safetensors.torch import load_file
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import MetadataIndex

from dictionaries.containers import open_tensors
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_coder
from dictionaries.sharded import Piece, joined
from dictionaries.tensors import File, MappedTensor

checkpoint = published.checkpoint  # fixture

NAME = "llamascopium_dcp"
WHOLE = load_file(place("llamascopium_jumprelu") / "sae_weights.safetensors")
# [(first row, rows, first column, columns)] of W_D [64, 16]
GRID = [(0, 40, 0, 7), (0, 40, 7, 9), (40, 24, 0, 7), (40, 24, 7, 9)]
STRIPS = [(0, 40, 0, 16), (40, 24, 0, 3), (40, 24, 3, 13)]
COLUMNS = [(0, 10, 0, 5), (10, 54, 0, 5), (0, 64, 5, 11)]


def cut(checkpoint: Path, name: str, pieces: list[tuple[int, int, int, int]]) -> None:
    """Have a tensor of the checkpoint lie in these pieces, as four processes save it."""
    metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    stored = metadata.storage_data
    for index in [index for index in stored if index.fqn == name]:
        del stored[index]
    content = b""
    for row, rows, column, columns in reversed(pieces):
        piece = io.BytesIO()
        torch.save(WHOLE[name][row : row + rows, column : column + columns].clone(), piece)
        index = MetadataIndex(name, torch.Size([row, column]))
        stored[index] = _StorageInfo("__2_0.distcp", len(content), len(piece.getvalue()))
        content += piece.getvalue()
    (checkpoint / "__2_0.distcp").write_bytes(content)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))


@pytest.mark.parametrize("pieces", [GRID, STRIPS, COLUMNS], ids=["grid", "rows", "columns"])
def test_a_dictionary_in_pieces_of_both_axes_is_what_it_was_cut_of(pieces, checkpoint):
    cut(checkpoint, "W_D", pieces)
    stored = open_tensors(checkpoint)["W_D"]
    assert torch.equal(stored.load(), WHOLE["W_D"])
    for axis, rows in ((0, WHOLE["W_D"]), (1, WHOLE["W_D"].T)):
        ids = [0, len(rows) - 1, 3, 3]
        assert torch.equal(stored.gather(axis, ids), rows[ids])
        assert torch.equal(stored.block(axis, 2, len(rows) - 1), rows[2:-1])
        assert torch.equal(stored.raw(axis, 2, len(rows) - 1), rows[2:-1])
    acts, recon = open_coder(checkpoint.parent).coded(expected(NAME)["x"])
    torch.testing.assert_close(acts, expected(NAME)["acts"])
    torch.testing.assert_close(recon, expected(NAME)["recon"])


def test_of_a_row_that_lies_in_two_pieces_no_more_is_read(checkpoint, monkeypatch):
    cut(checkpoint, "W_D", GRID)
    stored = open_tensors(checkpoint)["W_D"]
    found, plain = [], File.read_into

    def counted(self, buffer, offset):
        found.append(len(buffer))
        plain(self, buffer, offset)

    monkeypatch.setattr(File, "read_into", counted)
    assert torch.equal(stored.gather(0, [50]), WHOLE["W_D"][[50]])
    assert sorted(found) == [4 * 7, 4 * 9]


@pytest.mark.parametrize(
    "pieces",
    [
        [*GRID[:3], (40, 24, 7, 8)],
        [*GRID[:3], (41, 23, 7, 9)],
        GRID[:3],
        [*GRID, (10, 5, 2, 3)],
        [(0, 41, 0, 7), *GRID[1:]],
    ],
    ids=["narrow", "gap", "missing", "within", "overlap"],
)
def test_pieces_that_leave_something_out_or_lie_over_each_other_are_refused(pieces, checkpoint):
    cut(checkpoint, "W_D", pieces)
    with pytest.raises(
        DictionaryError, match=r"W_D.* \[64, 16\], but its pieces do not make it up"
    ):
        open_tensors(checkpoint)


def test_pieces_of_two_types_are_refused():
    pieces = [
        Piece((at, 0), MappedTensor("W", torch.ones(2, 3, dtype=dtype)))
        for at, dtype in ((0, torch.float32), (2, torch.bfloat16))
    ]
    assert joined("W", (4, 3), pieces[:1]) is None
    assert joined("W", (4, 3), pieces) is None
    same = [pieces[0], Piece((2, 0), pieces[0].stored)]
    assert joined("W", (4, 3), same).shape == (4, 3)
