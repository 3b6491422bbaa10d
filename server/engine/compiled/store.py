"""Compiled layers on disk, by what their code depends on: the cache that outlives a restart."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers

from .call import Job, Kind, Uncompilable

log = logging.getLogger("steerdeck.engine")

_LEFT = 24 * 3600.0  # seconds; no compilation takes so long
_SOURCES = ("call.py", "compiler.py", "opaque.py", "../joined.py")


class Store:
    """A folder of <kind>-<environment>.pt2 for one model. What is in it is run: keep it private."""

    def __init__(self, folder: Path, model: Any) -> None:
        self._folder = folder
        self._model = model
        self._environment = environment(model)
        self._child: subprocess.Popen[bytes] | None = None
        self.closed = False

    def load(self, kind: Kind) -> Any:
        """The code, as torch's package loader; None if it is not there or cannot be loaded."""
        path = self._path(kind)
        if not path.exists():
            return None
        try:
            return torch._C._aoti.AOTIModelPackageLoader(str(path), "model", True, 1, -1)
        except RuntimeError as error:
            log.warning("%s cannot be loaded and is compiled again: %s", path, error)
            path.unlink(missing_ok=True)
            return None

    def make(self, kinds: Sequence[Kind]) -> None:
        """Compile them, in a process of its own; minutes. Raises Uncompilable or OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        model = self._model
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="making-") as scratch:
            job = Job(type(model), model.config, model.dtype, tuple(kinds))
            torch.save(job, Path(scratch) / "job.pt")
            self._run(Path(scratch))
            for kind in kinds:
                (Path(scratch) / f"{kind.key}.pt2").replace(self._path(kind))

    def _sweep(self) -> None:
        """What a server left that was killed while it compiled."""
        for left in self._folder.glob("making-*"):
            with suppress(FileNotFoundError):  # another server has just removed it
                if time.time() - left.stat().st_mtime > _LEFT:
                    shutil.rmtree(left, ignore_errors=True)

    def _run(self, scratch: Path) -> None:
        own = {
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "OMP_NUM_THREADS": "1",
        }
        told = scratch / "stderr"
        with told.open("wb") as stderr:
            self._child = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.compiler", str(scratch)],
                env=os.environ | own,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )
            if self.closed:  # between the thread's start and the process'
                self._child.terminate()
            code = self._child.wait()
        if code != 0:
            lines = told.read_text(errors="replace").strip().splitlines()
            raise Uncompilable(lines[-1] if lines else f"the compiler ended with {code}")

    def close(self) -> None:
        """End a compiler that is under way."""
        self.closed = True
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def _path(self, kind: Kind) -> Path:
        return self._folder / f"{kind.key}-{self._environment}.pt2"


def environment(model: Any) -> str:
    """Of everything but the layer itself that the code depends on: 16 hex digits."""
    config = {k: v for k, v in model.config.to_dict().items() if not k.startswith("_")}
    told = [
        torch.__version__,
        transformers.__version__,
        type(model).__qualname__,
        json.dumps(config, sort_keys=True, default=str),
        str(model.dtype),
        processor(),
        *((Path(__file__).parent / name).read_text() for name in _SOURCES),
    ]
    return hashlib.blake2b("\n".join(told).encode(), digest_size=8).hexdigest()


def processor() -> str:
    """The instructions it knows: code for one machine may crash on another with the same home."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
