"""`steerdeck catalog`: the pairings that have a name of their own. Needs no server and no torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from .common import fail, show

if TYPE_CHECKING:
    from dictionaries.catalog import Pairing


def catalog(
    name: Annotated[str | None, typer.Argument(help="All that is known of one entry.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the entries as JSON.")] = False,
) -> None:
    """List the models and dictionaries that have a name of their own.

    [bold]Examples[/bold]

      steerdeck catalog

      steerdeck catalog gemma-2-2b-it

      steerdeck serve --model gemma-2-2b-it
    """
    from dictionaries.catalog import names, pairing

    entries = [entry for each in names() if (entry := pairing(each))]
    if name is not None:
        entries = [entry for entry in entries if entry.name == name]
        if not entries:
            fail(f"{name!r} is no name of the catalog; it has {', '.join(names())}")
    if as_json:
        told = [{**asdict(entry), "unpinned": entry.unpinned} for entry in entries]
        show(told if name is None else told[0])
    elif name is None:
        _table(entries)
    else:
        _details(entries[0])


def _table(entries: list[Pairing]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("name", "layer", "features", "download GB", "preset", box=None, pad_edge=False)
    for entry in entries:
        features, size = f"{entry.features:,}", f"{entry.gb:g}" + (" gated" if entry.gated else "")
        cells = (entry.name, str(entry.layer), features, size, entry.preset or "")
        table.add_row(*map(escape, cells))
    console = Console()
    console.print(table)
    console.print("steerdeck catalog NAME tells more, steerdeck serve --model NAME serves it")


def _kept(entry: Pairing) -> str:
    """What is here of the parts whose commit the catalog does not say."""
    from dictionaries.hub import placed

    told = []
    for part in entry.unpinned:
        commit = placed(getattr(entry, part), "dictionary").revision
        at = f"kept at {commit}" if commit else "not downloaded yet, then kept at the day's commit"
        told.append(f"{part} ({at})")
    return ", ".join(told)


def _details(entry: Pairing) -> None:
    lines = {
        "about": entry.about,
        "model": entry.model,
        "dictionary": entry.dictionary,
        "site": f"layer {entry.layer} {entry.hook}, {entry.features:,} features"
        + (f", L0 {entry.l0:g}" if entry.l0 else ""),
        "download": entry.size,
        "licence": entry.licence + (" (gated: needs HF_TOKEN)" if entry.gated else ""),
        "not pinned": _kept(entry),
        "neuronpedia": f"https://neuronpedia.org/{entry.neuronpedia}" if entry.neuronpedia else "",
    }
    for preset in entry.presets:
        lines[f"preset {preset['name']}"] = f"{json.dumps(preset['edits'])}, {preset['source']}"
    width = max(map(len, lines))
    for label, text in lines.items():
        if text:
            typer.echo(f"{label:<{width}}  {text}")
