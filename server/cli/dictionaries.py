"""`steerdeck dictionaries`: look at and use published dictionaries without a model or a server."""

from __future__ import annotations

import typer

from . import dictionaries_pack

app = typer.Typer(
    help="Look at published dictionaries and rewrite them, offline.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.command("pack")(dictionaries_pack.pack)


@app.callback()
def _several() -> None:
    """Keep `pack` a command with a name while it is the only one."""
