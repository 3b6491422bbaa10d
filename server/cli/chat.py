"""`steerdeck chat`: talk to a running server."""

from __future__ import annotations

import math
import re
import sys
from typing import Annotated, Any

import typer

from .common import DEFAULT_URL, Api, Refused, UrlOption, fail, harmless, say, show

ENDS = {
    "length": "the reply reached its longest length or the end of the context: allow more with "
    "--max-tokens, or begin a new conversation",
    "cancelled": "the reply was stopped from elsewhere",
    "steering_abort": "the reply was ended by a condition of its steering",
    "steering_guard": "the reply was ended by the guard of its steering",
}

SteerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--steer",
        "-s",
        metavar="FEATURE[:STRENGTH[:OP[:UNIT]]]",
        help="A feature by id or slug, and how much: in multiples of its maximum, or with the "
        "unit raw in activations, which a feature without a card needs; repeatable.",
    ),
]


def chat(
    message: Annotated[
        str | None, typer.Argument(help="What to say; without it a conversation begins.")
    ] = None,
    steer: SteerOption = None,
    preset: Annotated[str | None, typer.Option("--preset", "-p", help="A preset's name.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest reply, in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="For the same reply again.")] = None,
    receipt: Annotated[
        bool, typer.Option("--receipt", help="Print the receipt after the reply, on stderr.")
    ] = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Talk to a steered model on a running server; the reply streams.

    [bold]Examples[/bold]

      steerdeck chat "Who are you?" --preset golden-gate-bridge

      steerdeck chat "Hello" --steer san-francisco-fog:10 --steer 12:0.5:add --seed 1

      steerdeck chat "Hello" --steer 12:90:clamp:raw

      steerdeck chat   (a conversation; Ctrl-C stops a reply, Ctrl-D ends it)
    """
    if temperature is not None and not math.isfinite(temperature):
        fail(f"--temperature {temperature} is not a number from 0 to 2: 0.7 is a usual one")
    api = Api(url)
    steering: dict[str, Any] = {"edits": [read_edit(text) for text in steer or []]}
    if preset:
        steering["preset"] = preset
    options = {"temperature": temperature, "max_completion_tokens": max_tokens, "seed": seed}
    body: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    body["steering"] = steering
    turns = [{"role": "system", "content": system}] if system else []
    if message is None:
        return _converse(api, body, turns, receipt)
    try:
        _turn(api, body, turns, message, receipt)
    except Refused as exc:
        fail(str(exc))


def read_edit(text: str) -> dict[str, Any]:
    """`san-francisco-fog:10:add:raw` -> an edit. A feature may hold slashes but no colon."""
    feature, _, rest = text.partition(":")
    strength, _, how = rest.partition(":")
    op, _, unit = how.partition(":")
    edit: dict[str, Any] = {
        "feature": int(feature) if re.fullmatch("[0-9]{1,12}", feature) else feature
    }
    if op or (rest and not strength):
        edit["op"] = op
    if unit:
        edit["unit"] = unit
    if strength == "ablate":
        return edit | {"op": "ablate"}
    if op != "ablate":
        try:
            edit["strength"] = float(strength or "1")
        except ValueError:
            edit["strength"] = math.nan
        if not math.isfinite(edit["strength"]):
            fail(f"--steer {text}: {strength!r} is no number; write FEATURE:STRENGTH, as fog:15")
    return edit


def _converse(api: Api, body: dict[str, Any], turns: list[dict[str, Any]], receipt: bool) -> None:
    """Until nothing more is said. A refusal costs its own turn only, and in the end the status;
    Ctrl-C, while a reply comes, that reply.
    """
    refused = False
    while (said := _read()) is not None:
        if not said.strip():
            continue
        try:
            _turn(api, body, turns, said, receipt)
        except Refused as exc:
            say(str(exc))
            refused = True
        except KeyboardInterrupt:
            typer.echo()
            say("stopped; Ctrl-D ends the conversation")
    if refused:
        raise typer.Exit(1)


def _turn(
    api: Api, body: dict[str, Any], turns: list[dict[str, Any]], said: str, receipt: bool
) -> None:
    """One exchange; `turns` grows by both sides, or where it is refused by none."""
    asked = [*turns, {"role": "user", "content": said}]
    reply, reason, told = "", None, None
    try:
        for chunk in api.stream({**body, "messages": asked}):
            for choice in chunk["choices"]:
                reply += _write(choice["delta"].get("content") or "")
                reason = choice.get("finish_reason") or reason
            told = chunk.get("steering", {}).get("receipt") or told
    except Refused:
        if reply:
            typer.echo()
        raise
    typer.echo()
    if receipt:  # and nothing else, so that stderr is JSON
        show(told, err=True)
    elif reason not in (None, "stop"):
        say(ENDS.get(reason, f"the reply ended with {reason}"))
    turns[:] = [*asked, {"role": "assistant", "content": reply}]


def _write(text: str) -> str:
    typer.echo(harmless(text) if sys.stdout.isatty() else text, nl=False)
    sys.stdout.flush()
    return text


def _read() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None
