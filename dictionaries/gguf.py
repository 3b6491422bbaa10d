"""GGUF, llama.cpp's container of tensors, as far as control vectors need it.

"GGUF", a version, how many tensors and how many words of metadata there are; the words (key, type,
value); of each tensor name, sizes, type and place; then, at a multiple of the alignment, the
numbers. All little endian. source: docs/gguf.md of ggml.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .errors import DictionaryError
from .tensors import File, FileTensor, Stored

ARCHITECTURE = "controlvector"
_LONGEST = 2**20  # bytes of header: a direction takes some fifty, and a model's vocabulary is more
_NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_TEXT, _ARRAY = 8, 9
_TYPES = {0: torch.float32, 1: torch.float16, 28: torch.float64, 30: torch.bfloat16}
_AXES, _NAME = 4, 64  # ggml's most; bytes of a tensor's name
_ALIGNED = 32  # where no `general.alignment` says otherwise


class Gguf(NamedTuple):
    """words: the metadata; of an array None, which nobody here asks for."""

    words: dict[str, Any]
    tensors: dict[str, Stored]


def read_gguf(path: Path) -> Gguf:
    """Only the header is read, of which nothing is believed unchecked.

    Raises DictionaryError for a file that is missing, cut short, contradicts itself, holds other
    types than floats, or is of another architecture, such as a model.
    """
    file = File(path)
    header = _Header(path, file.read(0, min(file.size, _LONGEST)), whole=file.size <= _LONGEST)
    if header.take(4) != b"GGUF":
        raise DictionaryError(f"{path} is no GGUF file: it does not begin with 'GGUF'.")
    if (version := header.number("I")) not in (2, 3):
        raise DictionaryError(
            f"{path} is of version {version} of GGUF; read are 2 and 3, little endian."
        )
    tensors, said = header.number("Q"), header.number("Q")
    words: dict[str, Any] = {}
    for _ in range(said):
        key = header.text()
        words[key] = header.value(header.number("I"))
        if key == "general.architecture":  # first of all, before a vocabulary comes
            _check_architecture(words, path)
    _check_architecture(words, path)
    entries = [header.entry() for _ in range(tensors)]
    begin = -(-header.at // _alignment(words, path)) * _alignment(words, path)
    found: dict[str, Stored] = {}
    for name, shape, kind, offset in entries:
        if name in found:
            raise DictionaryError(f"{path} has two tensors called {name!r}.")
        found[name] = _placed(file, name, shape, kind, begin + offset)
    return Gguf(words, found)


def _check_architecture(words: dict[str, Any], path: Path) -> None:
    said = words.get("general.architecture")
    if said != ARCHITECTURE:
        raise DictionaryError(
            f"{path} is a GGUF file of the architecture {said!r:.80}, a model perhaps; of those "
            f"only control vectors ({ARCHITECTURE!r}) are opened."
        )


def _alignment(words: dict[str, Any], path: Path) -> int:
    said = words.get("general.alignment", _ALIGNED)
    if type(said) is not int or not 0 < said <= _LONGEST or said & (said - 1):
        raise DictionaryError(f"{path}: general.alignment is {said!r}, which is no power of two.")
    return said


def _placed(file: File, name: str, shape: tuple[int, ...], kind: int, start: int) -> FileTensor:
    if kind not in _TYPES:
        raise DictionaryError(
            f"tensor {name!r} of {file.path} has ggml's type {kind}; read are "
            f"{', '.join(f'{n} ({t})' for n, t in _TYPES.items())}."
        )
    stop = start + math.prod(shape) * _TYPES[kind].itemsize
    if stop > file.size:
        raise DictionaryError(
            f"{file.path} was cut short: tensor {name!r} lies at bytes {start} to {stop} of "
            f"{file.size}. Download it again."
        )
    return FileTensor(name, shape, _TYPES[kind], file, start)


class _Header:
    """The bytes of a header, taken from its front. at: how many were."""

    def __init__(self, path: Path, content: bytes, *, whole: bool) -> None:
        self.at = 0
        self._path, self._content, self._whole = path, content, whole

    def take(self, count: int) -> bytes:
        if count > len(self._content) - self.at:
            why = (
                "was cut short, or contradicts itself: its header goes on behind its end. Download "
                "it again"
                if self._whole
                else f"has a header of more than {_LONGEST} bytes, which no control vector needs"
            )
            raise DictionaryError(f"{self._path} {why}.")
        self.at += count
        return self._content[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _TEXT:
            return self.text()
        of, count = (self.number("I"), self.number("Q")) if kind == _ARRAY else (kind, 0)
        if of in _NUMBERS:
            self.take(count * struct.calcsize(f"<{_NUMBERS[of]}"))
        elif of == _TEXT:
            for _ in range(count):
                self.text()
        else:
            raise DictionaryError(f"{self._path} has metadata of the type {of}, which is not read.")
        return None

    def entry(self) -> tuple[str, tuple[int, ...], int, int]:
        """(name, shape, ggml's type, where it begins); ggml names the last axis first."""
        name, axes = self.text(), self.number("I")
        if len(name) > _NAME or axes > _AXES:
            raise DictionaryError(
                f"tensor {name[:_NAME]!r} of {self._path} has {axes} axes and a name of "
                f"{len(name)} letters; ggml's most are {_AXES} and {_NAME}."
            )
        shape = tuple(self.number("Q") for _ in range(axes))[::-1]
        return name, shape, self.number("I"), self.number("Q")
