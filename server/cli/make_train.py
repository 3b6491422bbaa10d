"""`steerdeck make train`: a dictionary of any model, from any text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .make_options import (
    DEFAULT_MODEL,
    DeviceOption,
    DtypeOption,
    FieldOption,
    ModelOption,
    OutOption,
    SeedOption,
    TextOption,
    ThreadsOption,
    advancing,
    making,
)

if TYPE_CHECKING:
    from pathlib import Path


def train(
    text: TextOption,
    out: OutOption,
    layer: Annotated[int, typer.Option("--layer", "-l", help="Decoder layer, counted from 0.")],
    model: ModelOption = DEFAULT_MODEL,
    hook: Annotated[
        str,
        typer.Option(help="resid_pre, resid_mid, resid_post, attn_out, mlp_out or hook_z."),
    ] = "resid_post",
    d_sae: Annotated[
        int | None, typer.Option("--d-sae", help="Features; default: 8 times the site's width.")
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Features a token, on average.")] = 32,
    tokens: Annotated[int, typer.Option(help="Tokens to train on.")] = 20_000_000,
    batch: Annotated[int, typer.Option(help="Tokens of a training step.")] = 4096,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Learning rate; default: by the width.")
    ] = None,
    context: Annotated[int, typer.Option(help="Tokens of a row of text.")] = 256,
    rows: Annotated[int, typer.Option(help="Rows of text in one forward pass.")] = 16,
    buffer: Annotated[
        int | None, typer.Option(help="Tokens shuffled together; default: 256 MiB of them.")
    ] = None,
    end_to_end: Annotated[
        float,
        typer.Option(
            "--end-to-end",
            help="Share of the tokens, the last, on which the model's own loss counts too.",
        ),
    ] = 0.0,
    held_out: Annotated[
        int, typer.Option("--held-out", help="Held-out tokens to measure on.")
    ] = 50_000,
    field: FieldOption = "text",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
) -> None:
    """Train a dictionary that `steerdeck serve --dictionary` opens.

    One document in twenty is held out, and measures the result: metrics.json in the folder.
    Stopped and started again, it goes on after the last round that it kept.

    [bold]Examples[/bold]

      steerdeck make train -m openai-community/gpt2 -l 8 -t hf:stas/openwebtext-10k -o gpt2-sae

      steerdeck make train -m ./my-model -l 2 -t notes.txt -o my-sae --k 20 --end-to-end 0.1
    """
    with making(threads):
        from dictionaries.making.train_plan import TrainPlan

        plan = TrainPlan(
            tokens=tokens,
            d_sae=d_sae,
            k=k,
            batch=batch,
            lr=lr,
            context=context,
            rows=rows,
            buffer=buffer,
            end_to_end=end_to_end,
            measured=held_out,
            seed=seed,
        )
        found = _train(plan, model, (layer, hook), text, field, out, (device, dtype))
    recovered = found["loss_recovered"]
    told = "n/a" if recovered is None else f"{recovered:.1%}"
    dead, width = found["dead_in_training"], found["made"]["d_sae"]
    typer.echo(
        f"{out}: {dead} of {width} features dead in training; on {found['tokens']:,} held-out "
        f"tokens FVU {found['fvu']:.3f}, L0 {found['l0']:.1f}, {found['dead']} features silent, "
        f"loss recovered {told}\n"
        f"Try it:  steerdeck serve --model {model} --dictionary {out}"
    )


def _train(
    plan: Any,
    model: str,
    where: tuple[int, str],
    text: list[str],
    field: str,
    out: Path,
    on: tuple[str, str],
) -> dict[str, Any]:
    """Everything heavy; the model is opened as `serve` does it."""
    from dictionaries.dictionary import Site
    from dictionaries.making.files import text_state
    from dictionaries.making.text import documents
    from dictionaries.making.train import train
    from dictionaries.making.train_plan import Origin

    from ..loading import revision
    from ..model_subject import ModelSubject
    from ..subject import load

    state = text_state(text, out)
    loaded = load(model, device=on[0], dtype=on[1])
    subject = ModelSubject(loaded.model, loaded.tokenizer, Site(*where))
    subject.check_context(plan.context)
    return train(
        subject,
        lambda: documents(text, field=field, seed=plan.seed, without=out),
        plan,
        out,
        Origin(loaded.name, tuple(text), field, revision(loaded.path), state),
        showing=advancing,
    )
