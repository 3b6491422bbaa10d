"""`steerdeck make direction`: a vector to steer by, from two files of texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import harmless, lines
from .make_options import (
    DEFAULT_MODEL,
    DeviceOption,
    DtypeOption,
    ModelOption,
    OutOption,
    SeedOption,
    ThreadsOption,
    making,
    model_facts,
)

if TYPE_CHECKING:
    from dictionaries.making.two_sets import Difference


def direction(
    more: Annotated[Path, typer.Option(help="A file of texts, one a line, that have it.")],
    less: Annotated[Path, typer.Option(help="A file of texts, one a line, that do not.")],
    name: Annotated[str, typer.Option(help="What it stands for: its label.")],
    out: OutOption,
    layer: Annotated[int, typer.Option("--layer", "-l", help="Decoder layer, counted from 0.")],
    model: ModelOption = DEFAULT_MODEL,
    hook: Annotated[
        str,
        typer.Option(help="resid_pre, resid_mid, resid_post, attn_out, mlp_out or hook_z."),
    ] = "resid_post",
    context: Annotated[int, typer.Option(help="Tokens read of a text, from its front.")] = 256,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Make a direction from two sets of texts, for `steerdeck serve --dictionary` to add.

    It is the difference of their mean residuals, in full length. One text in five is held out, to
    tell how well it tells texts apart. Again with another --name, the folder gets a row more.

    [bold]Example[/bold]

      steerdeck make direction -l 2 --more polite.txt --less rude.txt --name politeness -o own
    """
    sets = lines(more), lines(less)
    with making(threads):
        from dictionaries.dictionary import HOOKS, Site
        from dictionaries.making.own_directions import Folder
        from dictionaries.making.two_sets import difference

        from ..errors import BadRequest
        from ..model_subject import ModelSubject
        from ..subject import load

        if hook not in HOOKS:
            raise BadRequest(f"--hook {hook}: the hooks are {', '.join(HOOKS)}")
        loaded = load(model, device=device, dtype=dtype)
        subject = ModelSubject(loaded.model, loaded.tokenizer, Site(layer, hook))
        subject.check_context(context)
        folder = Folder(out, subject.site, model_facts(loaded))
        folder.check(name)
        found = difference(subject, *sets, context=context, seed=seed)
        near = sorted(folder.cosines(found.direction), key=lambda one: -abs(one[1]))
        made = {"texts": [*map(len, sets)], "residual_length": found.residual}
        at = folder.add(name, found.direction, {**made, "accuracy": found.accuracy})
    typer.echo(f"{out}: row {at}, {name}\n{_told(found)}")
    for label, cosine in near[:10]:
        typer.echo(f"cosine with {harmless(label)}: {cosine:.2f}")
    typer.echo(f"Try it:  steerdeck serve --model {model} --dictionary {out}")


def _told(found: Difference) -> str:
    length, more, less = float(found.direction.norm()), found.more, found.less
    return (
        f"length {length:.4g}, which is what `add 1 raw` adds to a token: "
        f"{length / found.residual:.0%} of its residual, on average\n"
        f"held-out texts on their side: {more.right} of {more.of} that have it, {less.right} of "
        f"{less.of} that do not (guessing: half). To tell texts apart is not yet to steer"
    )
