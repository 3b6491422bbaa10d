"""`steerdeck features`: search and look at the features of a running server."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import features_import, features_read
from .common import DEFAULT_URL, Api, JsonOption, UrlOption, harmless, in_path, show

app = typer.Typer(help="Search and look at the features of a running server; import labels.")
app.command("import")(features_import.import_)
app.command("find")(features_read.find)
app.command("contrast")(features_read.contrast)


@app.command("search")
def search(
    words: Annotated[list[str] | None, typer.Argument(help="Beginnings of words.")] = None,
    sort: Annotated[
        str,
        typer.Option(
            help="relevance, label, feature, density, maximum, steerability, output_score."
        ),
    ] = "relevance",
    limit: Annotated[int, typer.Option(help="1 to 200.")] = 20,
    offset: Annotated[int, typer.Option(help="Results to skip.")] = 0,
    dictionary: Annotated[str | None, typer.Option(help="Default: the first one.")] = None,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Find features by their label, name or the tokens they promote.

    [bold]Examples[/bold]

      steerdeck features search fog

      steerdeck features search --sort steerability --limit 50
    """
    asked = {"q": " ".join(words or []), "sort": sort, "limit": limit, "offset": offset}
    if dictionary:
        asked["dictionary"] = dictionary
    found = Api(url).ask("GET", "/v1/features", params=asked)
    if as_json:
        return show(found)
    console = Console()
    if found.get("words") == "any" and found["data"]:
        console.print("No feature has all of these words; these have some of them:")
    console.print(_table(found["data"]))
    more = "" if found.get("total_exact", True) else " or more"
    console.print(f"{len(found['data'])} of {found['total']}{more}", highlight=False)


@app.command("show")
def show_one(
    feature: Annotated[str, typer.Argument(help="An id, dictionary/id or slug.")],
    neighbors: Annotated[int, typer.Option(help="Similar features to list; 0 for none.")] = 5,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Everything known of one feature.

    [bold]Example[/bold]

      steerdeck features show golden-gate-bridge
    """
    api = Api(url)
    found = api.ask("GET", f"/v1/features/{in_path(feature)}")
    near = []
    if neighbors > 0:
        path = f"/v1/features/{in_path(feature)}/neighbors"
        near = api.ask("GET", path, params={"n": neighbors})["data"]
    if as_json:
        return show({**found, "neighbors": near} if neighbors > 0 else found)
    console = Console(highlight=False)
    title = harmless(found["label"] or found["ref"])
    console.print(Text.assemble((title, "bold"), f"  {found['ref']}"))
    for line in _facts(found):
        console.print(Text(f"  {harmless(line)}"))
    for example in found["examples"][:3]:
        console.print(_marked(example))
    for other in near:
        label = harmless(other["label"] or "")
        console.print(Text(f"  {other['cosine']:+.2f}  {other['ref']}  {label}"))


def _facts(found: dict[str, Any]) -> list[str]:
    lines = []
    if found["slug"]:
        lines.append(f"slug       {found['slug']}")
    if found["maximum"] is not None:
        lines.append(f"maximum    {found['maximum']:.3g}")
    if found["density"] is not None:
        lines.append(f"density    {found['density']:.2%} of tokens")
    if found["output_score"] is not None and not found["band"]:  # measured beats one guess
        lines.append(f"says it    output score {found['output_score']:.2g} of 1 (a first guess)")
    if found["band"]:
        low, high = found["band"]
        lines.append(f"safe band  {low:g} to {high:g} times the maximum")
    if found["recommended"]:
        advice = found["recommended"]
        lines.append(f"try        {advice['op']} {advice['strength']:g}")
    for name in ("promoted_logits", "suppressed"):
        if found[name]:
            word = name.partition("_")[0]
            lines.append(f"{word:10} {' '.join(repr(t['token']) for t in found[name][:8])}")
    return lines


def _marked(example: dict[str, Any]) -> Text:
    """The example's text, the tokens it fires on in bold."""
    marked = Text("  … ")
    for token, activation in zip(example["tokens"], example["activations"], strict=True):
        marked.append(harmless(token), "bold red" if activation > 0 else None)
    return marked


def _table(features: list[dict[str, Any]]) -> Table:
    table = Table("feature", "label", "slug", "density", "maximum", "promotes", box=None)
    for f in features:
        cells = (
            f["ref"],
            f["label"] or "",
            f["slug"] or "",
            "" if f["density"] is None else f"{f['density']:.2%}",
            "" if f["maximum"] is None else f"{f['maximum']:.3g}",
            " ".join(repr(t) for t in f["promoted"][:4]),
        )
        table.add_row(*(Text(harmless(cell)) for cell in cells))
    return table
