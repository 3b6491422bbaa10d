"""Where the tensors of a `torch.save` file lie in it, so that they are read like any other file's.

torch maps such a file and hands out tensors; it does not say at which byte they are. The zip's
directory has the places of all its data, the map is laid out like the file and begins at a page:
so where one tensor is in memory tells where the file's first byte is, and that tells all of them.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .tensors import File, FileTensor, MappedTensor, Stored


def stored(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Stored]:
    """tensors: from `torch.load(path, mmap=True)`. One in an odd order stays in the map."""
    spans = {_span(tensor) for tensor in tensors.values() if tensor.numel()}
    first = _first_byte(spans, _data(path)) if spans else None
    if first is None:
        return {name: MappedTensor(name, tensor) for name, tensor in tensors.items()}
    file = File(path)
    return {name: _placed(name, tensor, file, first) for name, tensor in tensors.items()}


def _placed(name: str, tensor: Tensor, file: File, first: int) -> Stored:
    turned = tensor.dim() == 2 and tensor.T.is_contiguous() and not tensor.is_contiguous()
    if not tensor.numel() or not (turned or tensor.is_contiguous()):
        return MappedTensor(name, tensor)
    return FileTensor(
        name, tuple(tensor.shape), tensor.dtype, file, tensor.data_ptr() - first, turned
    )


def _span(tensor: Tensor) -> tuple[int, int]:
    """(address, bytes) of the storage that a tensor is a view of."""
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def _data(path: Path) -> dict[int, set[int]]:
    """Where data of each size begins in the file: its zip members that are not compressed."""
    places = defaultdict(set)
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            if member.compress_type == zipfile.ZIP_STORED:
                file.seek(member.header_offset + 26)
                name, extra = struct.unpack("<HH", file.read(4))
                places[member.file_size].add(member.header_offset + 30 + name + extra)
    return places


def _first_byte(spans: set[tuple[int, int]], data: Mapping[int, set[int]]) -> int | None:
    """The address of the file's first byte, if there is exactly one that explains all spans."""
    address, size = next(iter(spans))
    found = {
        first
        for place in data.get(size, ())
        if (first := address - place) % mmap.PAGESIZE == 0
        and all(at - first in data.get(of, ()) for at, of in spans)
    }
    return found.pop() if len(found) == 1 else None
