"""Which files a source of text is, and what tells that they have changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import DictionaryError
from .digest import digest

HUB = "hf:"
SUFFIXES = (".txt", ".md", ".jsonl", ".json")


def kind(path: Path) -> str:
    """The suffix that says how it is read, .gz aside; "" for a file that is no text of ours."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    return suffix if suffix in SUFFIXES else ""


def files(source: str, without: Path | None = None) -> list[Path]:
    """A file alone, or the texts of a folder and those in it, sorted; hidden ones are left out.

    without: what a command of `steerdeck make` writes; it is no text, nor is what it keeps beside.
    Raises DictionaryError where there is none.
    """
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        found = _in_folder(path, without)
        if not found:
            raise DictionaryError(f"{path} holds no {', '.join(SUFFIXES)} file (.gz too).")
        return found
    if not path.is_file():
        raise DictionaryError(
            f"there is no text at {source}: give a file, a folder, or hf:org/name for a data set."
        )
    if not kind(path):
        raise DictionaryError(
            f"{path} is none of {', '.join(SUFFIXES)} (.gz too): convert it to one of these."
        )
    return [path]


def _in_folder(folder: Path, without: Path | None) -> list[Path]:
    beside = without.absolute().parent.resolve() if without else None
    found = []
    for root, folders, names in os.walk(folder):
        here = Path(root)
        ours = _written(without) if without and here.resolve() == beside else ()
        folders[:] = [n for n in folders if not n.startswith(".") and n not in ours]
        texts = (here / n for n in names if not n.startswith(".") and n not in ours)
        found += [path for path in texts if kind(path) and path.is_file()]
    return sorted(found)


def _written(out: Path) -> tuple[str, ...]:
    """Names of `out` and of what the commands keep beside it."""
    ends = ("", ".work", ".making", ".concepts.json")
    return (*(out.name + end for end in ends), f"{out.stem}.calibration.jsonl")


def text_state(sources: Sequence[str], without: Path | None = None) -> str:
    """A word that changes when a file of the sources is added, taken away or written to.

    The Hub's data sets are not in it: their names are all that is known before they are read.
    """
    seen = []
    for source in sources:
        if not source.startswith(HUB):
            for path in files(source, without):
                stat = path.stat()
                seen.append((str(path), stat.st_size, stat.st_mtime_ns))
    return digest(*seen)
