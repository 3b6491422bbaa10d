"""A file that is read at given places, as one of Python's own, for libraries that want those, and
where the members of a zip lie that such a library found.
"""

from __future__ import annotations

import io
import os
import struct
from typing import Any

from .tensors import File


class Stream(io.RawIOBase):
    """Reads a File, or its bytes [start, stop), from a place that moves on."""

    def __init__(self, file: File, start: int = 0, stop: int | None = None) -> None:
        self._file = file
        self._start = start
        self._size = (file.size if stop is None else stop) - start
        if not 0 <= start <= start + self._size <= file.size:
            raise OSError(f"{file.path} has {file.size} bytes, and none from {start} to {stop}")
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(f"byte {start + offset} of {self._file.path} lies before its first")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = memoryview(buffer)
        count = max(0, min(len(wanted), self._size - self._at))
        self._file.read_into(wanted[:count], self._start + self._at)
        self._at += count
        return count


def data_start(file: File, header: int) -> int:
    """Where the bytes of a zip's member begin whose own header is at that place of the file."""
    name, extra = struct.unpack("<HH", file.read(header + 26, 4))
    return int(header + 30 + name + extra)
