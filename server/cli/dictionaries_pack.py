"""`steerdeck dictionaries pack`: a dictionary in the layout whose features are read fastest."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .make_options import advancing, making

if TYPE_CHECKING:
    from dictionaries.dictionary import Dictionary


def pack(
    name: Annotated[
        str, typer.Argument(help="A folder, org/repo/sub/folder on the Hub, or a catalog name.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    norm_scaling_factor: Annotated[
        float | None,
        typer.Option(help="For SAELens files that say expected_average_only_in."),
    ] = None,
) -> None:
    """Rewrite a dictionary so that a feature is two contiguous reads, whatever its size.

    Its values stay the same bit for bit, and the folder opens like any other. Stopped or killed,
    the same command goes on; memory stays below 500 MB. Cards and presets beside it are copied, or
    else the catalog's presets; of directions of your own, labels and slugs become cards.

    [bold]Examples[/bold]

      steerdeck dictionaries pack ./my-sae --out ./my-sae-packed

      steerdeck dictionaries pack gemma-2-2b-it --out ./gemma-packed
    """
    with making():
        from dictionaries.asked import asked, paired
        from dictionaries.hub import find_files
        from dictionaries.pack import pack as write

        want = asked(name)
        if norm_scaling_factor is not None:
            want = replace(want, norm_scaling_factor=norm_scaling_factor)
        want, entry = paired(want)
        path = find_files(want.name, kind="dictionary")
        dictionary = want.open(path, entry.name if entry else None)
        info = dictionary.info
        with advancing("packed", 1.0, "of the file") as advance:
            fresh = write(
                dictionary,
                out,
                lambda done, total: advance(done / total, f"{done / 1e9:,.1f} GB"),
            )
        brought = [*_copy_beside(dictionary, out), *_presets(entry.presets if entry else (), out)]
    typer.echo(
        f"{out}: {info.d_sae:,} features of {info.d_in} numbers, from {info.format}"
        + ("" if fresh else "; it was packed already")
        + (f"; with {' and '.join(brought)}" if brought else "")
    )


def _copy_beside(source: Dictionary, target: Path) -> list[str]:
    """The cards and presets of one dictionary for another, unless it has its own."""
    from dictionaries.beside import cards_beside, cards_of, presets_beside, write_stated

    path, info, cards = source.path, source.info, cards_beside(target)
    copied = []
    for there, wanted in (
        (cards_of(path, info), cards),
        (presets_beside(path), presets_beside(target)),
    ):
        if there.is_file() and not wanted.exists():
            new = wanted.with_name(f"{wanted.name}.new")
            shutil.copyfile(there, new)
            os.replace(new, wanted)
            copied.append(wanted.name)
    if not cards.exists() and write_stated(path, info, cards):
        copied.append(cards.name)
    return copied


def _presets(presets: Sequence[Mapping[str, Any]], target: Path) -> list[str]:
    """The catalog's, laid beside: served by its folder, the copy is no entry of the catalog's."""
    from dictionaries.beside import presets_beside

    wanted = presets_beside(target)
    if not presets or wanted.exists():
        return []
    new = wanted.with_name(f"{wanted.name}.new")
    new.write_text(json.dumps(presets, indent=1), "utf-8")
    os.replace(new, wanted)
    return [wanted.name]
