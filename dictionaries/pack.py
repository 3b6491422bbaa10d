"""Write a dictionary of any format in the packed layout: streaming, resumable, in constant memory.

The rows are written one after another, encoder before decoder, in the type they are stored in, so
how far it came is how long the file is. What has safely reached the disk stands in a journal; a
run that is killed loses what was written since, and the next one goes on from there.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .about import stated_licence
from .dictionary import Dictionary
from .errors import DictionaryError
from .fit import expected_l0
from .packed_layout import JOURNAL, MANIFEST, ROWS, Side, beginning, manifest, sides

log = logging.getLogger("steerdeck.pack")

TILE = 64 * 2**20  # bytes of rows in hand; a strided source is read in pieces of TILE / d_in
FLUSHED = 256 * 2**20  # bytes between two entries of the journal

Told = Callable[[int, int], None]  # (bytes written, bytes in all)


def pack(dictionary: Dictionary, folder: Path, told: Told = lambda done, total: None) -> bool:
    """Pack into a folder, going on after what an earlier run wrote; False if all was there.

    Every row, bias and threshold reads back bit for bit. Raises DictionaryError for a dictionary
    that the layout does not hold, a folder that holds another one, and a disk that is too small.
    """
    said = manifest(dictionary.info, dictionary.weights) | _told_by_files(dictionary)
    prefix, total = beginning(dictionary.weights)
    if _packed_before(folder, said, total):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with _opened(folder) as file:
        if _packed_before(folder, said, total):  # by another process, just now
            return False
        written = _gone_on(file, folder, said, total)
        if written == 0:
            file.write(prefix)
        writer = _Writer(file, folder, said, max(written, len(prefix)))
        told(writer.written, total)
        begin = len(prefix)
        for side in sides(dictionary.weights):
            for rows in _records(side, max(0, writer.written - begin) // side.record):
                writer.write(rows)
                told(writer.written, total)
            begin += side.rows.features * side.record
        writer.close()
        _finish(folder, said)
    return True


def _told_by_files(dictionary: Dictionary) -> dict[str, Any]:
    """What names and neighbours of its files say of it, which the copy does not have."""
    told = {"l0": expected_l0(dictionary), "licence": stated_licence(dictionary.path)}
    return {word: value for word, value in told.items() if value is not None}


def _packed_before(folder: Path, said: dict[str, Any], total: int) -> bool:
    """Whether this dictionary is there already, whole. Raises DictionaryError if another one is."""
    rows = folder / ROWS
    for name in (MANIFEST, JOURNAL):
        path = folder / name
        if not path.is_file():
            continue
        there: Any = _read(path)
        if name == JOURNAL:
            there = there.get("manifest")
        if there != json.loads(json.dumps(said)):
            raise DictionaryError(
                f"{folder} holds another packed dictionary, or one whose files have changed since: "
                "choose another folder, or delete it first."
            )
    finished = (folder / MANIFEST).is_file() and not (folder / JOURNAL).is_file()
    return finished and rows.is_file() and rows.stat().st_size == total


@contextmanager
def _opened(folder: Path) -> Iterator[BinaryIO]:
    """The rows' file, for one packer at a time where its file system knows locks."""
    with (folder / ROWS).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DictionaryError(
                f"{folder} is being packed by another process: wait for it, or choose another "
                "folder."
            ) from error
        except OSError as error:
            log.debug("%s is packed without a lock: %s", folder, error)
        yield file


def _gone_on(file: BinaryIO, folder: Path, said: dict[str, Any], total: int) -> int:
    """Cut the rows' file to where the journal says that it is written, and say where that is."""
    journal = folder / JOURNAL
    written = int(_read(journal).get("written", 0)) if journal.is_file() else 0
    size = os.fstat(file.fileno()).st_size
    if size < written:
        written = 0  # somebody cut it
    free, more = shutil.disk_usage(folder).free, total - size  # cutting it gives its room back
    if free < more:
        raise DictionaryError(
            f"packing takes {1e-9 * total:.1f} GB in {folder}, {1e-9 * more:.1f} GB more than are "
            f"there, and the disk has {1e-9 * free:.1f} GB left."
        )
    _write(journal, {"manifest": said, "written": written})
    file.truncate(written)
    return written


def _records(side: Side, done: int) -> Iterator[Tensor]:
    """The records of one side from feature `done` on: uint8 [features, bytes of a record]."""
    step = max(1, TILE // max(side.record, 1))
    for start in range(done, side.rows.features, step):
        stop = min(start + step, side.rows.features)
        ids = torch.arange(start, stop)
        rows = side.rows.raw(start, stop).to(side.dtype).contiguous().view(torch.uint8)
        numbers = [values[ids].float() for values in side.numbers.values()]
        if numbers:
            rows = torch.cat([rows, torch.stack(numbers, -1).view(torch.uint8)], dim=-1)
        yield rows


class _Writer:
    """Appends records, and says in the journal what has reached the disk.

    A thread of its own waits for the disk, so that the next rows are read meanwhile.
    """

    def __init__(self, file: BinaryIO, folder: Path, said: dict[str, Any], written: int) -> None:
        self.written = written
        self._file, self._folder, self._said = file, folder, said
        self._journalled = written
        self._thread = ThreadPoolExecutor(1)
        self._flush: Future[None] | None = None

    def write(self, records: Tensor) -> None:
        self._file.write(records.numpy().data)
        self.written += records.numel()
        if self.written - self._journalled >= FLUSHED:
            self._wait()
            self._file.flush()
            self._journalled = self.written
            self._flush = self._thread.submit(self._journal, self.written)

    def close(self) -> None:
        self._wait()
        self._file.flush()
        self._journal(self.written)
        self._thread.shutdown()

    def _wait(self) -> None:
        if self._flush is not None:
            self._flush.result()

    def _journal(self, written: int) -> None:
        getattr(os, "fdatasync", os.fsync)(self._file.fileno())  # macOS has but the second
        _write(self._folder / JOURNAL, {"manifest": self._said, "written": written})


def _finish(folder: Path, said: dict[str, Any]) -> None:
    _write(folder / MANIFEST, said)
    (folder / JOURNAL).unlink()


def _read(path: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DictionaryError(f"{path} is damaged: delete {path.parent} and pack again.")
    return found


def _write(path: Path, value: dict[str, Any]) -> None:
    """All of it or, killed or without power, what was there before."""
    new = path.with_suffix(".new")
    with new.open("w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
