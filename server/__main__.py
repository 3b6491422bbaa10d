"""`python -m server` and the console script `steerdeck`."""

from __future__ import annotations

import io
import sys

from .cli import app


def main() -> None:
    # A terminal or a pipe of Windows may know fewer characters than tokens and replies have.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    app()


if __name__ == "__main__":
    main()
