"""How a download tells how far it is: bars on stderr, and numbers to whoever asked for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

Told = Callable[[int, int], object]  # bytes that are there, bytes in all


class Tally:
    """The bytes of files that come at the same time. total: of all of them. stopped: no more."""

    def __init__(self, told: Told | None = None) -> None:
        self.total = 0
        self.stopped = threading.Event()
        self._there = 0
        self._told = told
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Raises RuntimeError once stopped: it is the only place that every piece comes by."""
        if self.stopped.is_set():
            raise RuntimeError("the download was stopped")
        with self._lock:
            self._there += count
            if self._told is not None and self.total:
                self._told(self._there, self.total)

    def bar(self, shown: bool) -> Callable[..., Any]:
        """A tqdm class for one file's download that counts here too."""
        from huggingface_hub.utils import tqdm

        tally = self

        class Bar(tqdm):  # type: ignore[misc]
            def __init__(self, *args: Any, **options: Any) -> None:
                if not shown:
                    options["disable"] = True
                super().__init__(*args, **options)
                tally.add(int(options.get("initial") or 0))

            def update(self, n: float | None = 1) -> bool | None:
                tally.add(int(n or 0))
                drawn: bool | None = super().update(n)
                return drawn

        return Bar
