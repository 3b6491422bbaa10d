"""`steerdeck make …`: dictionaries, and what is known of their features, made on your machine.

Each command is a module `make_<name>.py`; what all share is in `make_options.py`.
"""

from __future__ import annotations

import typer

from . import (
    make_calibrate,
    make_describe,
    make_direction,
    make_evaluate,
    make_foghorn,
    make_label,
    make_train,
)

app = typer.Typer(
    help="Make dictionaries and what is known of their features.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.command("train")(make_train.train)
app.command("describe")(make_describe.describe)
app.command("direction")(make_direction.direction)
app.command("label")(make_label.label)
app.command("calibrate")(make_calibrate.calibrate)
app.command("evaluate")(make_evaluate.evaluate)
app.command("foghorn")(make_foghorn.foghorn)
