"""`steerdeck presets`: list, look at, save, carry away and delete presets of a running server."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .common import DEFAULT_URL, Api, JsonOption, UrlOption, fail, in_path, show

app = typer.Typer(help="List, save and carry presets of a running server.")

FIELDS = ("title", "description", "edits", "norm")


@app.command("list")
def list_all(as_json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """All presets; those that come with the dictionary first."""
    found = Api(url).ask("GET", "/v1/presets")
    if as_json:
        return show(found)
    table = Table("preset", "title", "edits", "", box=None)
    for preset in found["data"]:
        edits = ", ".join(_edit(edit) for edit in preset["edits"])
        table.add_row(
            preset["name"],
            escape(preset["title"]),
            escape(edits),
            "built in" if preset["builtin"] else "",
        )
    Console().print(table)


@app.command("show")
def show_one(
    name: Annotated[str, typer.Argument(help="The preset's name.")], url: UrlOption = DEFAULT_URL
) -> None:
    """One preset as JSON."""
    show(Api(url).ask("GET", f"/v1/presets/{in_path(name)}"))


@app.command("export")
def export(
    name: Annotated[str, typer.Argument(help="The preset's name.")],
    file: Annotated[Path | None, typer.Argument(help="Default: standard output.")] = None,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Write a preset to a file that `import` reads.

    [bold]Example[/bold]

      steerdeck presets export golden-gate-bridge bridge.json
    """
    preset = Api(url).ask("GET", f"/v1/presets/{in_path(name)}")
    text = json.dumps({"name": name, **{f: preset[f] for f in FIELDS}}, indent=2)
    if file is None:
        typer.echo(text)
        return
    try:
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as exc:
        fail(f"{file} cannot be written: {exc.strerror}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A JSON file; - reads standard input.")],
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", help="Default: the one in the file, or the file's."),
    ] = None,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Save a preset from a file: ours, Neuronpedia's steering JSON or Goodfire's controller.

    [bold]Example[/bold]

      steerdeck presets import steer.json --name my-bridge
    """
    body = _read(file)
    own = body.pop("name", None)
    name = name or (own if isinstance(own, str) else None) or file.stem
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:64]
    if not name:
        fail("the preset needs a name: give one with --name")
    saved = Api(url).ask("PUT", f"/v1/presets/{in_path(name)}", json=body)
    edits = ", ".join(_edit(edit) for edit in saved["edits"])
    typer.echo(f"saved {saved['name']}: {edits}")


@app.command("delete")
def delete(
    name: Annotated[str, typer.Argument(help="The preset's name.")], url: UrlOption = DEFAULT_URL
) -> None:
    """Delete a preset you saved."""
    Api(url).ask("DELETE", f"/v1/presets/{in_path(name)}")
    typer.echo(f"deleted {name}")


def _read(file: Path) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        body = json.loads(text)
        json.dumps(body, allow_nan=False)  # Python reads NaN and 1e999, which JSON does not know
    except OSError as exc:
        fail(f"{file} cannot be read: {exc.strerror}")
    except (ValueError, RecursionError) as exc:
        fail(f"{file} is not JSON: {exc}")
    if not isinstance(body, dict):
        fail(f"{file} holds no JSON object")
    return body


def _edit(edit: dict[str, Any]) -> str:
    strength = "" if edit["strength"] is None else f" {edit['strength']:g}"
    unit = " (raw)" if edit["unit"] == "raw" else ""
    return f"{edit['feature']} {edit['op']}{strength}{unit}"
