"""Files that are elsewhere: what is here is a hole of their size, filled where somebody reads.

Readers take paths, and some of them (torch, zipfile) nothing but paths. So a file of which little
is wanted is stood for by a sparse one, and `tensors.File` has the parts that it reads fetched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

BLOCK = 16 * 2**10  # bytes; what is fetched begins and ends at multiples of it

Read = Callable[[int, int], bytes]  # (first byte, the one after the last) -> that part of the file


class Absent:
    """The stand-in for one file, made at `path`; read: fetches from where the file is."""

    def __init__(self, path: Path, size: int, read: Read) -> None:
        self.path = path
        self._size = size
        self._read = read
        self._here: set[int] = set()  # blocks
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.truncate(size)

    def fetch(self, start: int, stop: int) -> None:
        """Have these bytes here, as far as the file goes. Raises what `read` raises."""
        with self._lock:
            for blocks in self._missing(start, min(stop, self._size)):
                first, end = blocks.start * BLOCK, min(blocks.stop * BLOCK, self._size)
                content = self._read(first, end)
                with self.path.open("r+b") as file:
                    file.seek(first)
                    file.write(content)
                self._here.update(blocks)

    def _missing(self, start: int, stop: int) -> list[range]:
        """The blocks that are not here, those side by side together."""
        wanted = [b for b in range(start // BLOCK, -(-stop // BLOCK)) if b not in self._here]
        runs = [
            [b for _, b in run] for _, run in groupby(enumerate(wanted), lambda at: at[1] - at[0])
        ]
        return [range(run[0], run[-1] + 1) for run in runs]


_KNOWN: dict[Path, Absent] = {}


def at(path: Path) -> Absent | None:
    """The stand-in that lies at a path, if it is one."""
    return _KNOWN.get(path.absolute())


@contextmanager
def known(files: Sequence[Absent]) -> Iterator[None]:
    """Have these found by their absolute paths, until the end of the block."""
    made = {file.path: file for file in files}
    _KNOWN.update(made)
    try:
        yield
    finally:
        for path in made:
            del _KNOWN[path]
