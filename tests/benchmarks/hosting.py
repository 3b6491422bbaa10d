"""A server of the benchmark's own: started, watched through /proc, and stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Server:
    url: str
    pid: int | None  # None: somebody else's
    ready_after: float | None = None  # seconds from starting the process to /readyz
    threads: int | None = None  # of a step; None: as many as torch takes, or somebody else's

    def memory(self, what: str) -> float | None:
        """MB resident: `VmRSS` now or `VmHWM` at the peak. None where there is no /proc."""
        status = Path(f"/proc/{self.pid}/status")
        if self.pid is None or not status.exists():
            return None
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return round(int(lines[what].split()[0]) / 1024)

    def cpu(self) -> float | None:
        """CPU seconds used so far, all threads; None where there is no /proc."""
        stat = Path(f"/proc/{self.pid}/stat")
        if self.pid is None or not stat.exists():
            return None
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_ready(url: str, process: subprocess.Popen[bytes], log: Path, limit: float) -> None:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}:\n{log.read_text()}")
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"the server was not ready after {limit:.0f} s:\n{log.read_text()}")


def chosen(log: Path) -> int | None:
    """The threads that a server measured to be the fastest; None where it measured none."""
    found = re.search(r"a step runs on (\d+) of", log.read_text())
    return int(found[1]) if found else None


@contextmanager
def serving(
    model: str,
    dictionary: str | None = None,
    *,
    page: bool = True,
    threads: int | None = None,
    limit: float = 120,
) -> Iterator[Server]:
    """`steerdeck serve` on a free port with an empty data folder; stopped by SIGTERM.

    threads: of a step; None: as many as it finds fastest.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "STEERDECK_MODEL": model,
            "STEERDECK_DATA_DIR": folder,
            "STEERDECK_UI": str(page),
            "STEERDECK_PREFIX_CACHE": "0",  # prompts come again; nobody else keeps them
        }
        if dictionary:
            settings["STEERDECK_DICTIONARY"] = dictionary
        if threads:
            settings["STEERDECK_THREADS"] = str(threads)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("STEERDECK_")}
        command = [sys.executable, "-m", "server", "serve", "--port", str(port)]
        log = Path(folder) / "server.log"
        started = time.monotonic()
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=REPO, env=clean | settings, stdout=out, stderr=subprocess.STDOUT
            )
        try:
            wait_ready(url, process, log, limit)
            ready = round(time.monotonic() - started, 2)
            yield Server(url, process.pid, ready, threads or chosen(log))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
