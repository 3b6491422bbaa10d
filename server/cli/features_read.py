"""`steerdeck features find` and `contrast`: what fires on texts, asked of a running server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .common import DEFAULT_URL, Api, JsonOption, UrlOption, harmless, lines, show

DictionaryOption = Annotated[str | None, typer.Option(help="Default: the first one.")]
LimitOption = Annotated[int, typer.Option(help="Features to list, 1 to 200.")]


def find(
    text: Annotated[str, typer.Argument(help="The text; - reads standard input.")],
    tokens: Annotated[
        int, typer.Option(help="Of each token, list so many features; 0: of the text alone.")
    ] = 0,
    limit: LimitOption = 20,
    dictionary: DictionaryOption = None,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Find the features that fire on a text: those near their maximum, rare ones first.

    [bold]Example[/bold]

      steerdeck features find "The fog came in over the old bridge."
    """
    said = sys.stdin.read() if text == "-" else text
    body = {"text": said, "top": tokens, "limit": limit, "dictionary": dictionary}
    found = Api(url).ask("POST", "/v1/features/activations", json=body)
    if as_json:
        return show(found)
    console = Console(highlight=False)
    for token in found["tokens"] if tokens else ():
        console.print(_line(token))
    table = Table("feature", "label", "activation", "at", box=None)
    for f in found["features"]:
        at = repr(found["tokens"][f["at"]]["token"])
        table.add_row(f["ref"], _label(f), f"{f['activation']:.3g}{_part(f)}", Text(harmless(at)))
    console.print(table)


def contrast(
    more: Annotated[Path, typer.Option(help="A file of texts, one a line, that have it.")],
    less: Annotated[Path, typer.Option(help="A file of texts, one a line, that do not.")],
    limit: LimitOption = 20,
    dictionary: DictionaryOption = None,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Find the features that tell two sets of texts apart, by the difference of their means.

    [bold]Example[/bold]

      steerdeck features contrast --more polite.txt --less rude.txt
    """
    body = {"more": lines(more), "less": lines(less), "limit": limit, "dictionary": dictionary}
    found = Api(url).ask("POST", "/v1/features/contrast", json=body)
    if as_json:
        return show(found)
    console = Console(highlight=False)
    for side, path in (("more", more), ("less", less)):
        console.print(Text(f"higher in {harmless(path.name)}", "bold"))
        table = Table("feature", "label", "mean more", "mean less", "texts", box=None)
        for f in found[side]:
            shares = f"{f['share_more']:.0%} / {f['share_less']:.0%}"
            means = f"{f['mean_more']:.3g}", f"{f['mean_less']:.3g}"
            table.add_row(f["ref"], _label(f), *means, shares)
        console.print(table)


def _label(f: dict[str, Any]) -> Text:
    return Text(harmless(f["label"] or " ".join(map(repr, f["promoted"][:3]))))


def _part(f: dict[str, Any]) -> str:
    return f" ({f['activation'] / f['maximum']:.0%} of its maximum)" if f["maximum"] else ""


def _line(token: dict[str, Any]) -> Text:
    fired = token["features"]
    said = (
        "not read"
        if fired is None
        else ", ".join(f"{harmless(f['label'] or f['ref'])} {f['activation']:.3g}" for f in fired)
    )
    return Text(f"{harmless(repr(token['token'])):16} {said}")
