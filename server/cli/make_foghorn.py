"""`steerdeck make foghorn`: the bundled demo, from its authored sheets to its exam."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .make_calibrate import ConceptsOption, sheets
from .make_options import OutOption, SeedOption, ThreadsOption, advancing, making, model_facts

if TYPE_CHECKING:
    from dictionaries.making.foghorn import Made
    from dictionaries.making.recipe import Recipe

    from ..subject import Bench


def foghorn(
    out: OutOption,
    work: Annotated[
        Path | None, typer.Option(help="Checkpoints and reports; default: OUT.work.")
    ] = None,
    concepts: ConceptsOption = None,
    public: Annotated[
        Path | None, typer.Option(help="A folder of others' text, for breadth of language.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="A foghorn's model folder to train on from, not from zero.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            help="The sae folder that belongs to --start, left as it is: only the layers above "
            "learn, and it is the mean of their weights half way and at the end."
        ),
    ] = None,
    few: Annotated[
        bool,
        typer.Option(
            "--few", help="Of the talks only those that the sheets name to be learnt well."
        ),
    ] = False,
    minutes: Annotated[float, typer.Option(help="Of training the language model.")] = 60,
    rate: Annotated[
        float, typer.Option(help="Times the learning rates: below 1 for a model that was trained.")
    ] = 1.0,
    sae_minutes: Annotated[float, typer.Option(help="Of training the dictionary.")] = 5,
    steps: Annotated[
        int | None, typer.Option(help="End both trainings by count: repeats to the bit on a CPU.")
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile the training step: faster after a minute."),
    ] = False,
    device: Annotated[
        str,
        typer.Option(help="Of both trainings: cpu; cuda for a larger model."),
    ] = "cpu",
    exam: Annotated[bool, typer.Option(help="Evaluate the steering at the end.")] = True,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Make foghorn: a small chat model, its dictionary, cards, bands, presets and reports.

    Every stage leaves its result in the work folder. Stopped, the same command goes on after the
    last finished stage.

    [bold]Example[/bold]

      steerdeck make foghorn --out my-foghorn --minutes 120

      steerdeck make foghorn --out my-foghorn --device cuda --minutes 7 --sae-minutes 1
    """
    with making(threads):
        import torch

        from dictionaries.making.foghorn import make
        from dictionaries.making.recipe import Recipe
        from dictionaries.making.train_model import LARGE, LARGEST, Plan, Shape
        from dictionaries.making.train_sae import SaePlan

        if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
            there = " and cuda" if torch.cuda.is_available() else "; torch finds no NVIDIA GPU here"
            raise typer.BadParameter(
                f"{device!r} came: it trains on cpu{there}.", param_hint="--device"
            )
        plan = Plan(minutes=None if steps else minutes, steps=steps, compiled=compiled, seed=seed)
        sparse = SaePlan(minutes=None if steps else sae_minutes, steps=steps, seed=seed)
        large = device != "cpu"
        if large:
            torch.set_float32_matmul_precision("high")  # of what stays float32 there
            plan = replace(plan, **LARGE, workers=max(1, (os.cpu_count() or 1) - 2))
            sparse = replace(sparse, batch=4 * sparse.batch)
        recipe = Recipe(
            corpus=sheets(concepts),
            public=public,
            work=work or out.with_name(f"{out.name}.work"),
            plan=replace(plan, muon_lr=rate * plan.muon_lr, adam_lr=rate * plan.adam_lr),
            sae_plan=sparse,
            start=start,
            kept=keep,
            few=few,
            shape=LARGEST if large and start is None else Shape(),
            device=device,
            seed=seed,
        )
        if large:
            recipe = replace(recipe, follow_from=0.25, sae_tokens=1_500_000)
        finish(recipe, make(recipe), out, exam=exam)


def finish(recipe: Recipe, made: Made, out: Path, *, exam: bool) -> None:
    """Describe, name, calibrate, examine; then put the bundle where it belongs."""
    from dictionaries.making.bundle import publish

    from ..subject import subject

    folder = made.folder
    named = f"{folder / 'sae'}?id=foghorn"  # as the catalog will call it, for who measures on
    with subject(str(folder / "model"), named, device="cpu") as bench:
        numbers = {"sae": asdict(made.quality), "spliced": _spliced(recipe, made, bench)}
        _write(recipe.work / "numbers.json", numbers)
        _ask_everyday(recipe, bench)
        _describe(recipe, made, bench)
        _name_and_calibrate(recipe, made, bench)
        if exam:
            _examine(recipe, bench)
    publish(folder, out)
    typer.echo(f"written to {out}; the reports are in {recipe.work}")


def _describe(recipe: Recipe, made: Made, bench: Bench) -> None:
    from dictionaries.making.concept_sheets import read_concepts
    from dictionaries.making.data import write_samples
    from dictionaries.making.describe_all import Plan, Reading, describe
    from dictionaries.making.foghorn import described_on
    from dictionaries.making.text import documents, windows

    text = recipe.work / "described.jsonl"
    if not text.is_file():
        write_samples(described_on(recipe, made.text), recipe.samples, text)
    plan = Plan(tokens=100 * recipe.samples, rows=16, seed=recipe.seed)  # more than there are
    describe(
        Reading(bench.subject, bench.dictionary, plan, advancing),
        lambda: windows(
            documents([str(text)]), bench.subject.tokenizer, context=256, rows=16, rest=True
        ),
        bench.cards,
        facts={"model": "foghorn", "text": "composed from dictionaries/foghorn/corpus"},
        concepts=read_concepts(recipe.corpus),
    )


def _name_and_calibrate(recipe: Recipe, made: Made, bench: Bench) -> None:
    from dictionaries.beside import presets_beside
    from dictionaries.cards import Cards
    from dictionaries.making.bundle import name_cards, presets, save_presets
    from dictionaries.making.calibrate_cards import Plan, calibrate_cards, chosen
    from dictionaries.making.foghorn import carriers_of
    from dictionaries.making.judge import Judge
    from dictionaries.making.sheets import read_corpus

    known = made.text.train.sheets
    with Cards.open(bench.cards, writable=True) as cards:
        maxima = [
            (card.maximum or 0.0) if (card := cards.get(i)) else 0.0
            for i in range(bench.dictionary.info.d_sae)
        ]
        name_cards(cards, carriers_of(recipe, made, maxima), known)
        judge = Judge(read_corpus(recipe.corpus))  # as `make calibrate` would go on with it
        wanted = chosen(cards, "concepts", judge)
        with advancing("calibrated", len(wanted), "features") as advance:
            calibrate_cards(
                bench.subject,
                bench.speaker(rows=48, context=256),
                bench.dictionary,
                cards,
                wanted,
                judge=judge,
                plan=Plan(seed=recipe.seed),
                facts={**model_facts(bench.loaded), "model": "foghorn"},
                told=lambda done, steerable: advance(done, f"{steerable} have a band"),
            )
        save_presets(presets(cards, known), presets_beside(bench.dictionary.path))
        cards.compact()


def _spliced(recipe: Recipe, made: Made, bench: Bench) -> dict[str, Any]:
    """Loss recovered and the rest, on text composed from the held-out side of the sheets alone."""
    from dictionaries.making.compose import Composer
    from dictionaries.making.data import write_samples
    from dictionaries.making.splice import measure
    from dictionaries.making.text import documents, windows

    text = recipe.work / "held_out.jsonl"
    write_samples(iter(Composer(made.text.held_out, seed=99)), 600, text)
    batches = windows(documents([str(text)]), bench.subject.tokenizer, context=256, rows=16)
    found = measure(
        bench.subject,
        bench.dictionary,
        batches,
        mean=made.usual.mean,
        limit=float("inf"),
        tokens=10**9,
    )
    return asdict(found)


def _examine(recipe: Recipe, bench: Bench) -> None:
    from dictionaries.cards import Cards
    from dictionaries.making.evaluate_run import evaluate
    from dictionaries.making.exam import Plan
    from dictionaries.making.sheets import read_corpus

    with Cards.open(bench.cards) as cards:
        evaluate(
            bench.subject,
            bench.speaker(rows=48, context=256),
            bench.dictionary,
            cards,
            read_corpus(recipe.corpus),
            recipe.work / "exam",
            plan=Plan(),
            facts={"model": "foghorn"},
            watched=advancing,
        )


def _ask_everyday(recipe: Recipe, bench: Bench) -> None:
    """Replies to read, beside the sheets' folder's `everyday.json` if there is one."""
    from dictionaries.making.everyday import answers, markdown, read_messages

    path = recipe.corpus.parent / "everyday.json"
    if path.is_file():
        messages = read_messages(path)
        replies = answers(bench.speaker(rows=32, context=256), messages, seed=recipe.seed)
        (recipe.work / "everyday.md").write_text(markdown(messages, replies), encoding="utf-8")


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
