"""What a server takes of the machine: an address to listen on, and threads."""

from __future__ import annotations

import errno
import math
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .common import fail

# What a container may take of a period, and the period.
_QUOTAS = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def unix_only() -> None:
    """Files are read by calls that Windows lacks; the client commands work there."""
    if sys.platform == "win32":
        fail("this command runs on Linux and macOS; on Windows run it inside WSL")


def bind(host: str, port: int) -> socket.socket:
    """A listening address, or a sentence about why not.

    The protocol is named because asyncio turns Nagle's algorithm off only where it is: with it on,
    every reply but a connection's first would wait 40 ms for the caller's delayed acknowledgement.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)  # from now on callers wait instead of being turned away
    except OSError as exc:
        listening.close()
        if exc.errno == errno.EADDRINUSE:
            fail(f"port {port} is taken by another program: choose another with --port, or 0")
        fail(f"cannot listen on {host}:{port}: {exc.strerror or exc}")
    return listening


def end_at_once() -> None:
    """Ctrl-C raises where it comes: asyncio would cancel the task, which imports for seconds yet.

    Within a running loop. An ignored Ctrl-C stays ignored.
    """
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.default_int_handler):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def url_of(host: str, port: int) -> str:
    """Where this machine's browser finds a server that listens on `host`."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def set_threads(threads: int | None) -> None:
    """Before torch is imported. A waiting thread must sleep: spinning at every barrier makes a step
    ten times slower as soon as another process wants the core.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads or physical_cores()))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def physical_cores() -> int:
    """Of those this process may use: hyper-threads of one core count once, and a container's quota
    of 1.5 CPUs is two.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    seen = set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            seen.add(siblings.read_text().strip())
        except OSError:
            seen.add(str(cpu))
    return min([len(seen) or os.cpu_count() or 1, *_quotas()])


def _quotas() -> Iterator[int]:
    """CPUs, rounded up, by either version of Linux's control groups."""
    for paths in _QUOTAS:
        with suppress(OSError, ValueError):  # of another version, or "max": no limit
            words = " ".join(Path(path).read_text() for path in paths).split()
            quota, period = map(int, words)
            if quota > 0:
                yield max(1, math.ceil(quota / period))
