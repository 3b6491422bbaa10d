"""Web servers in threads of the test's own process: what it has imported is not imported again."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from typing import Any


class Background:
    """A server on 127.0.0.1 in a thread with an event loop of its own, in which it is made.

    make: gives a `uvicorn.Server`, or one of ours, which can tell the streams of open tabs to end.
    """

    def __init__(self, make: Callable[[], Any], port: int = 0) -> None:
        self._make = make
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server: Any = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = self._make()
        self._server = server
        await server.serve(sockets=[self._listening])

    def start(self, ready: Callable[[], bool] = lambda: True) -> None:
        """... and wait until it listens and is `ready`."""
        self._thread.start()
        deadline = time.monotonic() + 60
        while not (self._server and self._server.started and ready()):
            assert self._thread.is_alive(), f"the server of {self.url} ended"
            assert time.monotonic() < deadline, f"{self.url} does not listen"
            time.sleep(0.01)

    def stop(self, *, force: bool = False) -> None:
        """force: without a wait for what is being answered, as a process that is killed."""
        self._end(force)
        self._wait()

    def _end(self, force: bool = False) -> None:
        if hasattr(self._server, "end_streams"):
            self._loop.call_soon_threadsafe(self._server.end_streams)
        self._server.force_exit = force
        self._server.should_exit = True

    def _wait(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


def stop_all(servers: list[Background]) -> None:
    """Each needs a fifth of a second; all together need no more."""
    for server in servers:
        server._end()
    for server in servers:
        server._wait()
