"""A folder that `torch.distributed.checkpoint` saved (`.dcp`), read where it lies.

Many processes wrote it, each its part of every tensor: `.metadata`, a pickle, tells the pieces of
each tensor and their places in the `__<process>_<n>.distcp` files. A piece is what `torch.save`
makes of one tensor: a small zip whose numbers lie uncompressed. So a row is read like any other
file's. Neither pickle is let run anything (`pickles.py`).
"""

from __future__ import annotations

import math
import sys
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .errors import DictionaryError
from .pickles import IndexRecord, SavedTensor, TensorRecord, read_metadata, read_tensor, whole
from .sharded import ShardedTensor
from .streams import Stream, data_start
from .tensors import File, FileTensor, Stored

_METADATA = ".metadata"
_LONGEST = 64 * 2**20  # bytes of a pickle; those of the largest models' checkpoints are smaller


class _Piece(NamedTuple):
    """Where a piece of a tensor begins in it, and where its zip lies."""

    start: tuple[int, ...]
    file: str
    offset: int
    length: int


def files(folder: Path) -> list[Path]:
    """What such a folder consists of."""
    return [folder / _METADATA, *sorted(folder.glob("*.distcp"))]


def open_distributed(folder: Path) -> dict[str, Stored]:
    """The tensors of a distributed checkpoint by name; of the pieces only their headers are read.

    Raises DictionaryError for one that is not whole, contradicts itself or names foreign classes.
    """
    try:
        return _opened(folder)
    except DictionaryError:
        raise
    except Exception as error:  # of a damaged pickle or zip nearly anything comes
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise DictionaryError(
            f"{folder} is no whole checkpoint of torch.distributed.checkpoint: {reason}. "
            "Download it again, or ask for a safetensors version of it."
        ) from error


def _opened(folder: Path) -> dict[str, Stored]:
    said = File(folder / _METADATA)
    if said.size > _LONGEST:
        raise ValueError(f"its {_METADATA} has {said.size} bytes; at most {_LONGEST} are read")
    metadata = read_metadata(said.read(0, said.size))
    pieces = _pieces(metadata["storage_data"], folder)
    opened: dict[str, File] = {}
    return {
        str(name): _tensor(name, whole(*about["size"]), sorted(pieces[name]), folder, opened)
        for name, about in metadata["state_dict_metadata"].items()
        if isinstance(about, TensorRecord)  # the others are plain objects
    }


def _pieces(stored: Mapping[Any, Any], folder: Path) -> dict[str, list[_Piece]]:
    found = defaultdict(list)
    for index, place in stored.items():
        if not isinstance(index, IndexRecord) or index["offset"] is None:
            continue
        file = place["relative_path"]
        if not isinstance(file, str) or Path(file).name != file:
            raise ValueError("a piece of it should lie outside of its folder")
        if place["transform_descriptors"]:
            raise DictionaryError(
                f"{folder} is compressed, so single rows cannot be read from it. {_convert(folder)}"
            )
        offset, length = whole(place["offset"], place["length"])
        found[index["fqn"]].append(_Piece(whole(*index["offset"]), file, offset, length))
    return found


def _convert(folder: Path) -> str:
    return (
        "Convert it once, if you trust it: torch.distributed.checkpoint.format_utils."
        f"dcp_to_torch_save('{folder.name}', '{folder.stem}.pt')."
    )


def _tensor(
    name: str,
    shape: tuple[int, ...],
    pieces: Sequence[_Piece],
    folder: Path,
    opened: dict[str, File],
) -> Stored:
    """pieces: by where they begin. opened: files, by their names."""
    parts: list[FileTensor] = []
    for piece in pieces:
        if piece.file not in opened:
            opened[piece.file] = File(folder / piece.file)
        parts.append(_part(name, opened[piece.file], piece))
    if len(parts) == 1 and parts[0].shape == shape:
        return parts[0]
    axis = next((a for a in range(len(shape)) if _along(a, shape, pieces, parts)), None)
    if axis is None:
        raise DictionaryError(
            f"tensor {name!r} of {folder} has shape {list(shape)}, but its pieces are not one "
            f"range of its rows or columns each: they begin at "
            f"{[list(piece.start) for piece in pieces][:4]} and have shapes "
            f"{[list(part.shape) for part in parts][:4]}. {_convert(folder)}"
        )
    return ShardedTensor(name, parts, axis)


def _along(
    axis: int, shape: tuple[int, ...], pieces: Sequence[_Piece], parts: Sequence[FileTensor]
) -> bool:
    """Whether the pieces, in their order, are the tensor cut along that axis alone."""
    at = 0
    for piece, part in zip(pieces, parts, strict=True):
        cut = shape[:axis] + part.shape[axis : axis + 1] + shape[axis + 1 :]
        begin = tuple(at if a == axis else 0 for a in range(len(shape)))
        if part.shape != cut or piece.start != begin or part.dtype != parts[0].dtype:
            return False
        at += part.shape[axis]
    return bool(parts) and at == shape[axis]


def _part(name: str, file: File, piece: _Piece) -> FileTensor:
    """One piece: a zip of a pickle that describes a tensor and of its storage's numbers."""
    with zipfile.ZipFile(Stream(file, piece.offset, piece.offset + piece.length)) as archive:
        members = {m.filename.partition("/")[2]: m for m in archive.infolist()}
        if any(m.compress_type != zipfile.ZIP_STORED for m in members.values()):
            raise ValueError(f"a piece of {name!r} is compressed")
        if members["data.pkl"].file_size > _LONGEST:
            raise ValueError(f"what describes a piece of {name!r} is too long")
        saved = read_tensor(archive.read(members["data.pkl"]))
        order = archive.read(members["byteorder"]) if "byteorder" in members else b"little"
    if order.decode() != sys.byteorder:
        raise ValueError(f"a piece of {name!r} has its bytes in another order ({order!r})")
    numbers = members[f"data/{saved.key}"]
    size = saved.dtype.itemsize
    if saved.offset < 0 or (saved.offset + math.prod(saved.shape)) * size > numbers.file_size:
        raise ValueError(f"a piece of {name!r} is longer than its storage")
    start = data_start(file, piece.offset + numbers.header_offset) + saved.offset * size
    return FileTensor(name, saved.shape, saved.dtype, file, start, _turned(name, saved))


def _turned(name: str, saved: SavedTensor) -> bool:
    """Whether a matrix was saved column by column. Raises ValueError for any other odd order."""
    shape, stride = saved.shape, saved.stride
    plain = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    if all(s == p or n == 1 for s, p, n in zip(stride, plain, shape, strict=True)):
        return False
    if len(shape) == 2 and stride == (1, shape[0]):
        return True
    raise ValueError(f"a piece of {name!r} lies in memory with strides {stride}")
