"""`steerdeck make describe`: a card for every live feature."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .make_options import (
    DEFAULT_MODEL,
    DeviceOption,
    DictionaryOption,
    DtypeOption,
    FieldOption,
    ModelOption,
    SeedOption,
    TextOption,
    ThreadsOption,
    advancing,
    making,
    model_facts,
)


def describe(
    text: TextOption,
    model: ModelOption = DEFAULT_MODEL,
    dictionary: DictionaryOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Default: cards.sqlite beside the dictionary (FILE.cards.sqlite)."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(help="How many content tokens to read.")] = 1_000_000,
    concepts: Annotated[
        Path | None, typer.Option(help="A folder of concept sheets to name features after.")
    ] = None,
    least_f1: Annotated[
        float, typer.Option(help="A feature takes a concept's name from this F1 up.")
    ] = 0.5,
    prompt: Annotated[
        list[str] | None, typer.Option(help="A neutral beginning for the output score; repeatable.")
    ] = None,
    context: Annotated[int, typer.Option(help="Tokens of a row; longer texts go on.")] = 256,
    rows: Annotated[int, typer.Option(help="Rows of a batch.")] = 16,
    every: Annotated[float, typer.Option(help="Seconds between saves.")] = 60.0,
    field: FieldOption = "text",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Describe every feature that fires: when, how strongly, on what, and what it says.

    The cards hold density, maximum, histogram, examples at several strengths, promoted and
    suppressed tokens, neighbours, the output score and a label. Stopped, the same command goes on.

    [bold]Examples[/bold]

      steerdeck make describe --text notes/ --tokens 200000 -o notes.cards.sqlite

      steerdeck make describe -m gpt2-small -t hf:org/name -o gpt2.cards.sqlite
    """
    with making(threads):
        from dictionaries.making.concept_sheets import read_concepts
        from dictionaries.making.describe_all import Plan, Reading, describe
        from dictionaries.making.files import text_state
        from dictionaries.making.text import documents, pieces, shuffled, windows

        from ..subject import subject

        prompts = {"prompts": tuple(prompt)} if prompt else {}
        plan = Plan(tokens, context, rows, least_f1, seed=seed, every=every, **prompts)
        known = read_concepts(concepts) if concepts else None
        with subject(model, dictionary, device=device, dtype=dtype) as bench:
            bench.subject.check_context(context)
            where = out or bench.cards
            stated = {"text": text, "text_state": text_state(text, where), "field": field}
            facts = {**model_facts(bench.loaded), **stated}
            read = partial(documents, text, field=field, seed=seed, without=where)
            described = describe(
                Reading(bench.subject, bench.dictionary, plan, advancing),
                lambda: windows(
                    shuffled(pieces(read()), seed=seed),
                    bench.subject.tokenizer,
                    context=context,
                    rows=rows,
                    rest=True,
                    ahead=8,
                ),
                where,
                facts={**facts, "context": context, "rows": rows},
                concepts=known,
            )
        done = "written to" if described.fresh else "were all there already, in"
        typer.echo(f"{described.live:,} cards, of {described.tokens:,} tokens, {done} {where}")
