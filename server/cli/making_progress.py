"""How far a long job is: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

log = logging.getLogger("steerdeck.making")


class Bar:
    def __init__(self, what: str, total: float, unit: str) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[done]} " + unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(what, total=total, done="0", note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, done: float, note: str = "") -> None:
        self._bar.update(self._task, completed=done, done=f"{done:,.0f}", note=note)


class Lines:
    """A line at the first report, at most one every `every` seconds, and the last report's."""

    def __init__(self, what: str, total: float, unit: str, every: float) -> None:
        self._what, self._total, self._unit, self._every = what, total, unit, every
        self._began: tuple[float, float] | None = None  # when, and how far it was by then
        self._told = 0.0
        self._untold = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | object) -> None:
        if self._untold:
            log.info("%s", self._untold)

    def advance(self, done: float, note: str = "") -> None:
        now = time.monotonic()
        self._began = self._began or (now, done)
        self._untold = self._line(done, now, note)
        if now - self._told >= self._every:
            log.info("%s", self._untold)
            self._told, self._untold = now, ""

    def _line(self, done: float, now: float, note: str) -> str:
        assert self._began is not None
        began, at = self._began
        line = f"{self._what}: {done:,.0f} of {self._total:,.0f} {self._unit}"
        if done > at:
            left = (self._total - done) * (now - began) / (done - at)
            line += f", {max(left, 0) / 60:.1f} min left"
        return f"{line}; {note}" if note else line
