"""`steerdeck compare`: one message answered unsteered and in several steered ways, side by side."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from .chat import SteerOption, read_edit
from .common import DEFAULT_URL, Api, JsonOption, UrlOption, fail, harmless, show

SWEEP = (0.5, 1.0, 1.5, 2.0)  # parts of the strengths that were given
UNSCALED = ("ablate", "at_most")


def compare(
    message: Annotated[str, typer.Argument(help="What to say.")],
    steer: SteerOption = None,
    preset: Annotated[
        list[str] | None, typer.Option("--preset", "-p", help="A preset's name; repeatable.")
    ] = None,
    sweep: Annotated[
        bool, typer.Option(help="All features at once, at 0.5, 1, 1.5 and 2 times their strengths.")
    ] = False,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest reply, in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="For the same replies again.")] = None,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Answer a message unsteered and steered by each feature and preset alone, and by all features
    together: in one batch from one seed, so that only the steering differs.

    [bold]Examples[/bold]

      steerdeck compare "Who are you?" --steer golden-gate-bridge:3.5 --steer san-francisco-fog:10

      steerdeck compare "Who are you?" --steer golden-gate-bridge:4 --sweep
    """
    if temperature is not None and not math.isfinite(temperature):
        fail(f"--temperature {temperature} is not a number from 0 to 2: 0.7 is a usual one")
    edits = [read_edit(text) for text in steer or []]
    if not edits and (sweep or not preset):
        fail("there is nothing to compare with: give --steer FEATURE:STRENGTH, as fog:10")
    options = {"temperature": temperature, "max_completion_tokens": max_tokens, "seed": seed}
    body: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    body["messages"] = [{"role": "user", "content": message}]
    body["variants"] = _ways(edits, sweep) + [{"preset": name} for name in preset or []]
    found = Api(url).ask("POST", "/v1/compare", json=body)
    if as_json:
        return show(found)
    console = Console(highlight=False)
    for variant in found["variants"]:
        console.print(Text(harmless(variant["label"]), "bold"))
        console.print(Text(harmless(variant["message"]["content"])))
        console.print()


def _ways(edits: list[dict[str, Any]], sweep: bool) -> list[dict[str, Any]]:
    """Variants: each edit alone and then all, or all at several strengths."""
    if sweep:
        return [
            {"label": f"{part:g} ×", "edits": [_scaled(e, part) for e in edits]} for part in SWEEP
        ]
    alone = [{"edits": [edit]} for edit in edits]
    return [*alone, {"label": "all together", "edits": edits}] if len(edits) > 1 else alone


def _scaled(edit: dict[str, Any], part: float) -> dict[str, Any]:
    """An edit moved to `part` of the way from what changes nothing, as the page's sweep does it."""
    op = edit.get("op")
    if op in UNSCALED or "strength" not in edit:
        return edit
    neutral = 1.0 if op == "scale" else 0.0
    return edit | {"strength": neutral + part * (edit["strength"] - neutral)}
