"""`steerdeck dictionaries`: look at and use published dictionaries without a model or a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from . import dictionaries_pack, dictionaries_update
from .common import fail, show
from .machine import unix_only

if TYPE_CHECKING:
    from dictionaries.asked import Asked
    from dictionaries.catalog import Pairing

app = typer.Typer(
    help="Look at published dictionaries, compute their activations and rewrite them; needs no "
    "server."
)
app.command("pack")(dictionaries_pack.pack)
app.command("update")(dictionaries_update.update)
app.callback()(unix_only)

NameArgument = Annotated[
    str, typer.Argument(help="A folder, a file, org/repo/sub/folder on the Hub, or a catalog name.")
]
ScaleOption = Annotated[
    float | None,
    typer.Option(
        "--norm-scaling-factor",
        help="For SAELens files that say expected_average_only_in: sqrt(d_in) / the mean length "
        "of the inputs.",
    ),
]
KOption = Annotated[
    int | None,
    typer.Option("--k", min=1, help="For TopK files that do not say how many features fire."),
]


@app.command("inspect")
def inspect(
    name: NameArgument,
    norm_scaling_factor: ScaleOption = None,
    k: KOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what is known as JSON.")] = False,
) -> None:
    """Say what a dictionary is: format, site, width, activation, licence, what can be steered.

    Of one on the Hub only the configs and small parts of the weights are fetched, where it has
    them in parts; then there is no revision, which is made of the weights.

    [bold]Examples[/bold]

      steerdeck dictionaries inspect ./my-sae

      steerdeck dictionaries inspect google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71
    """
    with _sentences():
        from dictionaries.hub_parts import look

        want, entry = _wanted(name, norm_scaling_factor, k)
        found = look(
            want.name,
            want.open_coder,
            licence=entry.licence if entry else None,
            instead=lambda why: typer.echo(why, err=True),
        )
    if as_json:
        return show(found)
    console = Console(highlight=False)
    console.print(f"[bold]{escape(found['id'])}[/bold]  {escape(found['path'])}")
    for line in _facts(found):  # less what a stranger's file may have for the terminal in them
        plain = "".join(filter(str.isprintable, line))
        console.print(f"  {escape(plain)}", soft_wrap=True)


@app.command("encode")
def encode(
    name: NameArgument,
    source: Annotated[
        Path, typer.Option("--input", "-i", help=r"A .safetensors with a tensor x \[n, d_in].")
    ],
    target: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors to write.")],
    norm_scaling_factor: ScaleOption = None,
    k: KOption = None,
) -> None:
    r"""Compute activations and reconstructions of vectors exactly as the dictionary's format does.

    Reads x \[n, d_in]; writes acts \[n, d_sae] and recon \[n, d_out], float32. Crosscoders take
    \[n, layers, d_in]. Vectors go through in chunks, so memory does not grow with n.

    [bold]Example[/bold]

      steerdeck dictionaries encode ./my-sae --input x.safetensors --output y.safetensors
    """
    if source.suffix != ".safetensors" or target.suffix != ".safetensors":
        fail("--input and --output are .safetensors files")
    if source.exists() and target.exists() and source.samefile(target):
        fail("--input and --output are the same file")
    with _sentences():
        import torch

        from dictionaries.encode_file import encode_file
        from dictionaries.hub import find_files

        want, _ = _wanted(name, norm_scaling_factor, k)
        coder = want.open_coder(find_files(want.name, kind="dictionary"))
        with torch.inference_mode():
            made = encode_file(coder, source, target)
    typer.echo(
        f"{target}: acts {list(made.acts)}, recon {list(made.recon)}; "
        f"{made.l0:.1f} features fire on a vector"
    )


def _wanted(name: str, scale: float | None, k: int | None) -> tuple[Asked, Pairing | None]:
    """(where its files are and what they do not say, the catalog's entry if it is a name of it)."""
    from dictionaries.asked import asked, paired

    want = asked(name)
    if scale is not None:
        want = replace(want, norm_scaling_factor=scale)
    if k is not None:
        want = replace(want, k=k)
    return paired(want)


@contextmanager
def _sentences() -> Iterator[None]:
    """What is wrong with a dictionary comes out as one sentence."""
    try:
        from dictionaries.errors import DictionaryError

        try:
            yield
        except DictionaryError as exc:
            fail(str(exc))
    except ModuleNotFoundError as exc:
        fail(f"this needs the package {exc.name}: pip install '.[dictionaries]' in a clone")
    except OSError as exc:  # such as a folder that may not be searched
        fail(f"{exc.filename or 'a file'} cannot be used: {exc.strerror or exc}")


def _facts(found: dict[str, Any]) -> list[str]:
    layers = ", ".join(map(str, found["layers"]))
    place = f"layer{'s' if len(found['layers']) > 1 else ''} {layers} {found['writes']}"
    if found["reads"] != found["writes"]:
        place += f", reads {found['reads']}"
    width = f"{found['d_in']}"
    if found["d_out"] != found["d_in"]:
        width += f" in, {found['d_out']} out"
    ops, why_not = found["steering"]["ops"], found["steering"]["why_not"]
    return [
        f"format         {found['format']}",
        f"model          {found['model'] or 'not stated'}",
        f"site           {place}",
        f"width          {found['d_sae']:,} features of {width} numbers",
        f"activation     {found['architecture']}" + (f", k {found['k']}" if found["k"] else ""),
        f"normalisation  {found['normalisation']}",
        f"licence        {found['licence'] or 'not stated in its files'}",
        *([f"source         {found['source']}"] if found["source"] else []),
        f"revision       {found['revision'] or 'unknown: its weights were not downloaded'}",
        f"steering       {', '.join(ops) or 'none'}" + (f": {why_not}" if why_not else ""),
    ]
