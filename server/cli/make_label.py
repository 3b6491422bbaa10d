"""`steerdeck make label`: labels by any OpenAI-compatible endpoint."""

from __future__ import annotations

import os
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from .common import fail
from .make_options import Advance, advancing, making

if TYPE_CHECKING:
    from dictionaries.making.label import Labelled


def label(
    cards: Annotated[Path, typer.Option("--cards", help="The cards file; labels go into it.")],
    base_url: Annotated[
        str, typer.Option("--base-url", help="Up to and with /v1: http://127.0.0.1:11434/v1")
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Default: the first that is listed.")
    ] = None,
    key_env: Annotated[
        str, typer.Option(help="The environment variable that holds the key, if one is needed.")
    ] = "OPENAI_API_KEY",
    only_unlabelled: Annotated[
        bool,
        typer.Option(
            "--only-unlabelled", help="Leave authored concepts' and other models' labels alone."
        ),
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Cards to label in this run.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Requests at once.")] = 4,
    max_tokens: Annotated[
        int, typer.Option(min=8, help="Of a reply; models that think first need more.")
    ] = 200,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for a reply.")] = 120.0,
) -> None:
    """Have a language model label features from their examples and promoted tokens.

    Each label is saved at once and signed with the model's name. Stopped, the same command goes
    on: what that model has labelled already is left alone. One request a feature, and up to two
    more, at a higher temperature, where the reply is no label. An endpoint that is busy is waited
    for, ten minutes at most.

    [bold]Example[/bold]

      steerdeck make label --cards cards.sqlite --base-url http://127.0.0.1:11434/v1 -m qwen3 \\
        --max-tokens 2000
    """
    with making():
        from dictionaries.cards import Cards
        from dictionaries.making.label import label_cards, waiting

        from ..endpoint import Endpoint

        key, stop = _key(key_env), Event()
        with (
            Cards.open(cards, writable=True) as opened,
            closing(
                Endpoint(
                    base_url,
                    model=model,
                    key=key,
                    max_tokens=max_tokens,
                    timeout=timeout,
                    sleep=partial(_pause, stop),
                )
            ) as endpoint,
        ):
            by = endpoint.model
            todo = waiting(opened, by=by, only_unlabelled=only_unlabelled)
            with advancing("labels", min(todo, limit or todo), "features") as advance:
                shown = _Shown(advance)
                endpoint.told = shown.waits
                done = label_cards(
                    opened,
                    endpoint,
                    by=by,
                    only_unlabelled=only_unlabelled,
                    most=limit,
                    concurrency=concurrency,
                    stop=stop,
                    told=shown.comes,
                )
    if not todo:
        spared = ", or another's that --only-unlabelled spares" if only_unlabelled else ""
        return typer.echo(f"nothing to do: every feature has a label by {by}{spared}")
    cut = f" ({done.cut:,} were cut off: raise --max-tokens {max_tokens})" if done.cut else ""
    typer.echo(
        f"{done.labelled:,} features labelled by {by}; {done.refused:,} replies were no labels "
        f"and those features keep the label they had{cut}"
    )


class _Shown:
    """How far it is, and that it waits."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._done, self._refused = 0, "0 refused"

    def comes(self, so_far: Labelled) -> None:
        self._done = so_far.labelled + so_far.refused
        self._refused = f"{so_far.refused} refused"
        self._advance(self._done, self._refused)

    def waits(self, why: str) -> None:
        self._advance(self._done, f"{self._refused}; {why}")


def _key(variable: str) -> str | None:
    key = os.environ.get(variable) or None
    if key is None and variable != "OPENAI_API_KEY":
        fail(f"the environment variable {variable} is empty: it should hold the key")
    return key


def _pause(stop: Event, seconds: float) -> None:
    """Between two tries, where the job may end meanwhile."""
    from ..errors import SteerdeckError

    if stop.wait(seconds):
        raise SteerdeckError("stopped between two tries")
