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
from .sharded import Piece, joined
from .streams import Stream, data_start
from .tensors import File, FileTensor, Stored

_METADATA = ".metadata"
_LONGEST = 64 * 2**20  # bytes of a pickle; those of the largest models' checkpoints are smaller


class _Place(NamedTuple):
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
    places = _places(metadata["storage_data"], folder)
    opened: dict[str, File] = {}
    return {
        str(name): _tensor(name, whole(*about["size"]), sorted(places[name]), folder, opened)
        for name, about in metadata["state_dict_metadata"].items()
        if isinstance(about, TensorRecord)  # the others are plain objects
    }


def _places(stored: Mapping[Any, Any], folder: Path) -> dict[str, list[_Place]]:
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
        found[index["fqn"]].append(_Place(whole(*index["offset"]), file, offset, length))
    return found


def _convert(folder: Path) -> str:
    return (
        "Convert it once, if you trust it: torch.distributed.checkpoint.format_utils."
        f"dcp_to_torch_save('{folder.name}', '{folder.stem}.pt')."
    )


def _tensor(
    name: str,
    shape: tuple[int, ...],
    places: Sequence[_Place],
    folder: Path,
    opened: dict[str, File],
) -> Stored:
    """places: of its pieces. opened: files, by their names."""
    parts: list[Piece] = []
    for place in places:
        if place.file not in opened:
            opened[place.file] = File(folder / place.file)
        parts.append(Piece(place.start, _part(name, opened[place.file], place)))
    whole = joined(name, shape, parts)
    if whole is None:
        raise DictionaryError(
            f"tensor {name!r} of {folder} has shape {list(shape)}, but its pieces do not make it "
            f"up: they begin at {[list(part.start) for part in parts][:4]} and have shapes "
            f"{[list(part.stored.shape) for part in parts][:4]}. {_convert(folder)}"
        )
    return whole


def _part(name: str, file: File, place: _Place) -> FileTensor:
    """One piece: a zip of a pickle that describes a tensor and of its storage's numbers."""
    with zipfile.ZipFile(Stream(file, place.offset, place.offset + place.length)) as archive:
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
    start = data_start(file, place.offset + numbers.header_offset) + saved.offset * size
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
