"""`steerdeck make calibrate`: how far every feature can be turned up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .make_options import (
    DEFAULT_MODEL,
    DeviceOption,
    DictionaryOption,
    DtypeOption,
    ModelOption,
    SeedOption,
    ThreadsOption,
    advancing,
    making,
    model_facts,
)

CardsOption = Annotated[
    Path | None,
    typer.Option("--cards", help="The cards file; default: cards.sqlite beside the dictionary."),
]
ConceptsOption = Annotated[
    Path | None,
    typer.Option("--concepts", help="A folder of concept sheets; default: the bundled ones."),
]
RowsOption = Annotated[int, typer.Option(min=1, help="Replies made at once.")]


def sheets(folder: Path | None) -> Path:
    """The folder, or that of the bundled sheets."""
    from importlib.resources import files

    return folder or Path(str(files("dictionaries").joinpath("foghorn/corpus")))


def calibrate(
    model: ModelOption = DEFAULT_MODEL,
    dictionary: DictionaryOption = None,
    cards: CardsOption = None,
    features: Annotated[
        str, typer.Option(help="concepts, all, top:N (by output score), or ids: 3,17.")
    ] = "concepts",
    concepts: ConceptsOption = None,
    prompts: Annotated[int, typer.Option(min=1, help="Neutral prompts, of each trial.")] = 6,
    tokens: Annotated[int, typer.Option(min=4, help="Of a reply.")] = 24,
    settle: Annotated[
        int, typer.Option(min=1, help="Neutral prompts on which the strength is settled.")
    ] = 20,
    rows: RowsOption = 48,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Find each feature's safe band of strengths: from where it shows to where text breaks.

    The band goes onto the cards, and an op and the gentlest strength at which nearly all replies
    show it; all that was measured goes beside them, into a .calibration.jsonl. A feature whose card
    has a concept's slug is watched by the words of the concept's sheet, another by the tokens that
    it promotes. A model that can think first is asked not to. Stopped, the same command goes on.

    [bold]Examples[/bold]

      steerdeck make calibrate --cards notes.cards.sqlite --features top:50

      steerdeck make calibrate -m gpt2-small --cards gpt2.cards.sqlite --features top:200
    """
    with making(threads):
        from dictionaries.beside import open_cards
        from dictionaries.making.calibrate_cards import Plan, calibrate_cards, chosen, curves_file
        from dictionaries.making.judge import Judge
        from dictionaries.making.sheets import read_corpus

        from ..subject import subject

        judge = Judge(read_corpus(sheets(concepts)))
        with subject(model, dictionary, device=device, dtype=dtype) as bench:
            path = cards or bench.cards
            with open_cards(path, bench.dictionary.info, writable=True) as opened:
                wanted = chosen(opened, features, judge)
                with advancing("calibrated", len(wanted), "features") as advance:
                    outcome = calibrate_cards(
                        bench.subject,
                        bench.speaker(rows=rows, context=256 + tokens),
                        bench.dictionary,
                        opened,
                        wanted,
                        judge=judge,
                        plan=Plan(prompts, tokens, seed, settle),
                        facts=model_facts(bench.loaded),
                        told=lambda done, steerable: advance(done, f"{steerable} have a band"),
                    )
        new = f"{outcome.fresh:,} measured now" if outcome.fresh else "all measured already"
        typer.echo(
            f"{outcome.steerable:,} of {outcome.asked:,} features have a safe band ({new}); "
            f"the curves are in {curves_file(path)}"
        )
