"""How far a long job is: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
from rich.text import Text

log = logging.getLogger("steerdeck.making")


class Pace:
    """The time left, by all of the time since the first report: a job may work in long rounds, of
    which any few seconds say nothing. What was done by the first report does not count.
    """

    def __init__(self, total: float) -> None:
        self._total = total
        self._began: tuple[float, float] | None = None  # when, and how far it was by then
        self._latest = (0.0, 0.0)

    def told(self, done: float) -> None:
        self._latest = time.monotonic(), done
        self._began = self._began or self._latest

    @property
    def left(self) -> float | None:
        """Seconds, by now; None where there is nothing to tell it by yet."""
        if self._began is None or self._latest[1] <= self._began[1]:
            return None
        (began, at), (latest, done) = self._began, self._latest
        left = (self._total - done) * (latest - began) / (done - at) - (time.monotonic() - latest)
        return max(left, 0.0)


class _Left(ProgressColumn):
    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def render(self, task: Task) -> Text:
        left = self._pace.left
        if left is None:
            return Text("-:--:--")
        minutes, seconds = divmod(round(left), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02}:{seconds:02}")


class Bar:
    def __init__(self, what: str, total: float, unit: str) -> None:
        self._pace = Pace(total)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[done]} " + unit),
            _Left(self._pace),
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
        self._pace.told(done)
        self._bar.update(self._task, completed=done, done=f"{done:,.0f}", note=note)


class Lines:
    """A line at the first report, at most one every `every` seconds, and the last report's."""

    def __init__(self, what: str, total: float, unit: str, every: float) -> None:
        self._what, self._total, self._unit, self._every = what, total, unit, every
        self._pace = Pace(total)
        self._told = 0.0
        self._untold = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | object) -> None:
        if self._untold:
            log.info("%s", self._untold)

    def advance(self, done: float, note: str = "") -> None:
        now = time.monotonic()
        self._pace.told(done)
        self._untold = self._line(done, note)
        if now - self._told >= self._every:
            log.info("%s", self._untold)
            self._told, self._untold = now, ""

    def _line(self, done: float, note: str) -> str:
        line = f"{self._what}: {done:,.0f} of {self._total:,.0f} {self._unit}"
        left = self._pace.left
        if left is not None:
            line += f", {left / 60:.1f} min left"
        return f"{line}; {note}" if note else line
