"""How loading is shown: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

Report = Callable[[str, float], None]


@contextmanager
def shown(report: Report, log_format: str) -> Iterator[Report]:
    """`report`, and on a terminal a bar with it, gone when loading is over.

    Downloads draw their own bars above it.
    """
    if not sys.stderr.isatty() or log_format != "text":
        yield report
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        bar.console.show_cursor()  # a process that ends in the middle cannot bring it back
        task = bar.add_task("starting", total=1.0)

        def both(stage: str, progress: float) -> None:
            report(stage, progress)
            bar.update(task, description=stage, completed=progress)

        yield both
