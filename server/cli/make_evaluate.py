"""`steerdeck make evaluate`: does steering work, measured beside two baselines."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .make_calibrate import CardsOption, ConceptsOption, RowsOption, sheets
from .make_options import (
    DEFAULT_MODEL,
    DeviceOption,
    DictionaryOption,
    DtypeOption,
    ModelOption,
    OutOption,
    SeedOption,
    ThreadsOption,
    advancing,
    making,
    model_facts,
)

if TYPE_CHECKING:
    from dictionaries.cards import Cards
    from dictionaries.making.exam import Plan
    from dictionaries.making.judge import Judge
    from dictionaries.making.sheets import Corpus

    from ..subject import Bench


def evaluate(
    out: OutOption,
    model: ModelOption = DEFAULT_MODEL,
    dictionary: DictionaryOption = None,
    cards: CardsOption = None,
    concepts: ConceptsOption = None,
    only: Annotated[
        str | None, typer.Option(help="Concepts, comma-separated; default: all with a feature.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=2, help="Neutral messages.")] = 20,
    seeds: Annotated[int, typer.Option(min=1, help="Replies to each message.")] = 3,
    tokens: Annotated[int, typer.Option(min=4, help="Of a reply.")] = 40,
    card_probe: Annotated[
        str | None,
        typer.Option(help="Only answer the preset questions under this concept, for a model card."),
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="Other questions for --card-probe: a file, one a line.")
    ] = None,
    rows: RowsOption = 48,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Steer every concept's feature as its card recommends, and score the replies.

    Scored beside a difference-of-means vector (where a sheet has drift) and a system prompt: how
    often the concept shows, how fluent the text is, whether it is still to its prompt, and their
    harmonic mean. OUT gets report.md, and report.json with every reply. Stopped, the same command
    goes on.

    [bold]Examples[/bold]

      steerdeck make evaluate --out report

      steerdeck make evaluate --out report --card-probe golden-gate-bridge
    """
    with making(threads), ExitStack() as closing:
        from dictionaries.beside import open_cards
        from dictionaries.making.exam import Plan
        from dictionaries.making.judge import Judge
        from dictionaries.making.sheets import read_corpus

        from ..subject import subject

        plan = Plan(prompts, seeds, tokens, seed)
        corpus = read_corpus(sheets(concepts))
        bench = closing.enter_context(subject(model, dictionary, device=device, dtype=dtype))
        opened = closing.enter_context(open_cards(cards or bench.cards, bench.dictionary.info))
        if card_probe:
            _probe(bench, opened, Judge(corpus), out, card_probe, questions, plan)
        else:
            _evaluate(bench, opened, corpus, out, only, plan, rows)


def _evaluate(
    bench: Bench, cards: Cards, corpus: Corpus, out: Path, only: str | None, plan: Plan, rows: int
) -> None:
    from dictionaries.making.evaluate_run import evaluate
    from dictionaries.making.evaluate_steering import MEANS, SYSTEM
    from dictionaries.making.exam import BEST

    found = evaluate(
        bench.subject,
        bench.speaker(rows=rows, context=256 + plan.tokens),
        bench.dictionary,
        cards,
        corpus,
        out,
        plan=plan,
        only=only.split(",") if only else None,
        facts=model_facts(bench.loaded),
        watched=advancing,
    )
    steered = found["steered"]
    beside = ", ".join(
        f"{arm.replace('_', ' ')} {found[arm]['harmonic']:.2f}"
        for arm in (MEANS, SYSTEM)
        if arm in found
    )
    typer.echo(
        f"{steered['works']} of {found['concepts']} concepts show in 0.9 of the replies and no "
        f"more than 0.05 of the unsteered ones; median score {steered['harmonic']:.2f} of {BEST:g} "
        f"({beside}). See {out / 'report.md'}"
    )


def _probe(
    bench: Bench,
    cards: Cards,
    judge: Judge,
    out: Path,
    slug: str,
    questions: Path | None,
    plan: Plan,
) -> None:
    from dictionaries.errors import DictionaryError
    from dictionaries.making.neutral import PRESET_QUESTIONS
    from dictionaries.making.probe import markdown, probe

    card = cards.by_slug(slug)
    if card is None or slug not in judge:
        raise DictionaryError(f"{slug!r} is no concept that has both a sheet and a card.")
    asked = questions.read_text(encoding="utf-8").splitlines() if questions else PRESET_QUESTIONS
    asked = [line.strip() for line in asked if line.strip()]
    if not asked:
        raise DictionaryError(f"{questions} holds no question: write one a line.")
    speaker = bench.speaker(rows=32, context=256 + plan.tokens)
    found = probe(
        speaker,
        card,
        asked,
        lambda reply: judge.shows(slug, reply),
        tokens=plan.tokens,
        seed=plan.seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    told = markdown(found)
    (out / f"probe-{slug}.md").write_text(told, encoding="utf-8")
    whole = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (out / f"probe-{slug}.json").write_text(whole, encoding="utf-8")
    typer.echo(told)
