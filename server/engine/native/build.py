"""Compiles our own code on the machine that is to run it, once, and keeps what comes of it.

It takes a C++ compiler and some five seconds. What is kept is named by all that it depends on, so
another version, or a processor that knows other instructions, compiles anew. For an image that has
no compiler `python -m server.engine.native.build` compiles ahead, for every processor it is for.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

POINTER, SIZE, INT, FLOAT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_float

log = logging.getLogger("steerdeck.engine")

_SOURCES = [
    Path(__file__).with_name(f"{name}.cpp")
    for name in ("product", "layers", "attend", "layer", "edits", "vocab")
]
_HEADERS = [Path(__file__).with_name(f"{name}.h") for name in ("native", "team", "vectors")]
_AHEAD = Path(__file__).with_name("ahead")
_LEVELS = {"AVX2": "x86-64-v3", "AVX512": "x86-64-v4"}  # by what torch calls the processor
# Rounding is as written: no product is fused with a sum that does not say so.
_FLAGS = "-std=c++17", "-O3", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC"
_COMPILERS = "c++", "g++", "clang++"
_SECONDS = 120.0
_SEAL = 16  # bytes


class Unavailable(RuntimeError):
    """There is no such code here; the message says why."""


def library() -> ctypes.CDLL:
    """The code of the C++ files beside this one.

    Raises Unavailable; what failed once is not tried again.
    """
    found = _found()
    if isinstance(found, str):
        raise Unavailable(found)
    return found


def function(name: str, arguments: tuple[Any, ...], result: Any = None) -> Callable[..., Any]:
    """One of the library's, which takes that and gives `result`. Raises Unavailable."""
    return _typed(library(), name, arguments, result)


@cache
def _typed(
    code: ctypes.CDLL, name: str, arguments: tuple[Any, ...], result: Any
) -> Callable[..., Any]:
    found = getattr(code, name)
    found.argtypes, found.restype = arguments, result
    return found  # type: ignore[no-any-return]


@cache
def able() -> bool:
    """Whether there is such code here at all."""
    try:
        library()
    except Unavailable:
        return False
    return True


@cache
def _found() -> ctypes.CDLL | str:
    level = _LEVELS.get(torch.backends.cpu.get_cpu_capability())
    if level is None:
        return "it is for x86 processors with AVX2 or AVX-512"
    try:
        return _kept(level)
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        return str(error)


def _kept(level: str) -> ctypes.CDLL:
    name = _name(level)
    ahead, path = _AHEAD / name, folder() / name
    mine = _private(folder())
    for found in (ahead, path) if mine else (ahead,):
        if _whole(found):
            return ctypes.CDLL(str(found))
    with tempfile.TemporaryDirectory(prefix="steerdeck-") as scratch:
        new = Path(scratch) / name
        _compile(level, new)
        try:
            if not mine:
                raise OSError(f"others may write to {path.parent}")
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            own = path.with_name(f"{name}.{os.getpid()}")  # others may compile it just now
            shutil.copy(new, own)
            own.replace(path)
        except OSError as error:
            log.info("our own code is compiled at every start: it cannot be kept: %s", error)
            path = new
        return ctypes.CDLL(str(path))


def _name(level: str) -> str:
    told = "\n".join((*_FLAGS, level, *(one.read_text("utf-8") for one in (*_SOURCES, *_HEADERS))))
    return f"engine-{hashlib.blake2b(told.encode(), digest_size=8).hexdigest()}.so"


def _sealed(code: bytes) -> bytes:
    """With its digest behind it, which loaders do not look at: half a library crashes a process."""
    return code + hashlib.blake2b(code, digest_size=_SEAL).digest()


def _whole(path: Path) -> bool:
    try:
        found = path.read_bytes()
    except OSError:
        return False
    return found == _sealed(found[:-_SEAL])


def _private(place: Path) -> bool:
    """Whether nobody else can have put something there; also where it is yet to be made."""
    try:
        found = place.stat()
    except FileNotFoundError:
        return True
    own = os.getuid() if hasattr(os, "getuid") else found.st_uid
    return found.st_uid == own and not found.st_mode & 0o022


def folder() -> Path:
    """Where it is kept. What is in it is run, so it must be private."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steerdeck"


def _compile(level: str, target: Path) -> None:
    wanted = os.environ.get("CXX")
    named = [shlex.split(wanted)] if wanted else [[name] for name in _COMPILERS]
    compiler = next((one for one in named if one and shutil.which(one[0])), None)
    if compiler is None:
        raise Unavailable(f"there is no C++ compiler ({', '.join(map(shlex.join, named))})")
    made = subprocess.run(
        [*compiler, *_FLAGS, f"-march={level}", *map(str, _SOURCES), "-o", str(target)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_SECONDS,
    )
    if made.returncode != 0:
        lines = made.stderr.strip().splitlines()
        why = next((line for line in lines if "error" in line), f"it ended with {made.returncode}")
        raise Unavailable(f"{shlex.join(compiler)} does not compile it: {why}")
    target.write_bytes(_sealed(target.read_bytes()))
    log.info("compiled our own code for %s", level)


def ahead() -> None:
    """For all processors, beside the source. Raises Unavailable."""
    _AHEAD.mkdir(exist_ok=True)
    for level in _LEVELS.values():
        _compile(level, _AHEAD / _name(level))


if __name__ == "__main__":
    ahead()
