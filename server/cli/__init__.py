"""The command line. Every command imports what it needs when it runs: `--help` is instant, and
the client commands work where neither torch nor a web framework is installed.
"""

from __future__ import annotations

import typer

from . import catalog, chat, compare, dictionaries, features, make, presets, serve

app = typer.Typer(
    name="steerdeck",
    help="Talk to a language model while you turn its features up and down.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("catalog")(catalog.catalog)
app.command("chat")(chat.chat)
app.command("compare")(compare.compare)
app.add_typer(features.app, name="features")
app.add_typer(presets.app, name="presets")
app.add_typer(dictionaries.app, name="dictionaries")
app.add_typer(make.app, name="make")
app.command("ui")(serve.ui)
app.command("version")(serve.version)
