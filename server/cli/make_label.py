"""`steerdeck make label`: labels by any OpenAI-compatible endpoint."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event
from typing import Annotated

import typer

from .common import fail
from .make_options import advancing, making


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
    more, at a higher temperature, where the reply is no label.

    [bold]Example[/bold]

      steerdeck make label --cards cards.sqlite --base-url http://127.0.0.1:11434/v1 -m qwen3 \\
        --max-tokens 2000
    """
    with making():
        from dictionaries.cards import Cards
        from dictionaries.making.label import label_cards, waiting

        from ..endpoint import Endpoint
        from ..errors import SteerdeckError

        key = os.environ.get(key_env) or None
        if key is None and key_env != "OPENAI_API_KEY":
            fail(f"the environment variable {key_env} is empty: it should hold the key")
        stop = Event()

        def pause(seconds: float) -> None:
            if stop.wait(seconds):
                raise SteerdeckError("stopped between two tries")

        with Cards.open(cards, writable=True) as opened:
            endpoint = Endpoint(
                base_url,
                model=model,
                key=key,
                max_tokens=max_tokens,
                timeout=timeout,
                sleep=pause,
            )
            by = endpoint.model
            todo = waiting(opened, by=by, only_unlabelled=only_unlabelled)
            total = min(todo, limit or todo)
            try:
                with advancing("labels", total, "features") as advance:
                    done = label_cards(
                        opened,
                        endpoint,
                        by=by,
                        only_unlabelled=only_unlabelled,
                        most=limit,
                        concurrency=concurrency,
                        stop=stop,
                        told=lambda so_far: advance(
                            so_far.labelled + so_far.refused, f"{so_far.refused} refused"
                        ),
                    )
            finally:
                endpoint.close()
        if not total:
            spared = ", or another's that --only-unlabelled spares" if only_unlabelled else ""
            typer.echo(f"nothing to do: every feature has a label by {by}{spared}")
            return
        cut = f" ({done.cut:,} were cut off: raise --max-tokens {max_tokens})" if done.cut else ""
        typer.echo(
            f"{done.labelled:,} features labelled by {by}; {done.refused:,} replies were no labels "
            f"and those features keep the label they had{cut}"
        )
