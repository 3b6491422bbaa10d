"""Which files these are: a short name for their content, and not for their place."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from .. import absent

_HASHED_WHOLE = 64 * 2**20  # bytes; of a longer file only samples are read
_SAMPLE = 2**20


def revision(files: Sequence[Path], part: str = "") -> str:
    """16 hex digits that change when the files do, and are others for another part of them.

    blake2b over each file's name and size and its content: all of it up to 64 MiB, and of a longer
    file 64 samples of 1 MiB spread evenly from the first byte to the last. "" where that would have
    to be fetched first.
    """
    if any(absent.at(path) for path in files):
        return ""
    digest = hashlib.blake2b(part.encode(), digest_size=8)
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= _HASHED_WHOLE:
                while piece := file.read(_SAMPLE):
                    digest.update(piece)
                continue
            samples = _HASHED_WHOLE // _SAMPLE
            for i in range(samples):
                file.seek((size - _SAMPLE) * i // (samples - 1))
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()
