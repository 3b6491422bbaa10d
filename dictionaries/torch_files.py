"""Where the tensors of a `torch.save` file lie in it, so that they are read like any other file's.

torch maps such a file and hands out tensors; it does not say at which byte they are. The zip's
directory has the places of all its data, the map is laid out like the file and begins at a page:
so where one tensor is in memory tells where the file's first byte is, and that tells all of them.
"""

from __future__ import annotations

import mmap
import re
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from . import absent
from .streams import Stream, data_start
from .tensors import File, FileTensor, MappedTensor, Stored

_TAIL = 64 * 2**10  # bytes, in which a directory of this size ends and mostly begins


def fetch_all_but_numbers(path: Path) -> None:
    """Have what torch.load reads to map a file, should it be one that is elsewhere.

    The directory at its end, the header of each member, and the members that are no storage whole.
    """
    elsewhere = absent.at(path)
    if elsewhere is None:
        return
    file = File(path)
    elsewhere.fetch(max(0, file.size - _TAIL), file.size)
    with zipfile.ZipFile(Stream(file)) as archive:
        for member in archive.infolist():
            start = data_start(file, member.header_offset)
            numbers = re.fullmatch(r"[^/]+/data/\d+", member.filename)
            elsewhere.fetch(member.header_offset, start + (0 if numbers else member.compress_size))


def stored(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Stored]:
    """tensors: from `torch.load(path, mmap=True)`. One in an odd order stays in the map."""
    file = File(path)
    spans = {_span(tensor) for tensor in tensors.values() if tensor.numel()}
    first = _first_byte(spans, _data(file)) if spans else None
    return {name: _placed(name, tensor, file, first) for name, tensor in tensors.items()}


def _placed(name: str, tensor: Tensor, file: File, first: int | None) -> Stored:
    turned = tensor.dim() == 2 and tensor.T.is_contiguous() and not tensor.is_contiguous()
    if first is None or not tensor.numel() or not (turned or tensor.is_contiguous()):
        if tensor.numel() and (elsewhere := absent.at(file.path)) is not None:
            elsewhere.fetch(0, file.size)  # the map knows of no fetching
        return MappedTensor(name, tensor)
    return FileTensor(
        name, tuple(tensor.shape), tensor.dtype, file, tensor.data_ptr() - first, turned
    )


def _span(tensor: Tensor) -> tuple[int, int]:
    """(address, bytes) of the storage that a tensor is a view of."""
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def _data(file: File) -> dict[int, set[int]]:
    """Where data of each size begins in the file: its zip members that are not compressed."""
    places = defaultdict(set)
    with zipfile.ZipFile(Stream(file)) as archive:
        for member in archive.infolist():
            if member.compress_type == zipfile.ZIP_STORED:
                places[member.file_size].add(data_start(file, member.header_offset))
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
