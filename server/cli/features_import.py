"""`steerdeck features import`: others' labels and evidence into a dictionary's feature cards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import fail
from .make_options import making

if TYPE_CHECKING:
    from collections.abc import Callable

    from dictionaries.dictionary import Dictionary


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder of Neuronpedia's export (v1/<model>/<source>), Gemma Scope 2's "
            "examples.safetensors, or a .csv of feature_id and label, as Goodfire has it for R1."
        ),
    ],
    dictionary: Annotated[
        str,
        typer.Option("--dictionary", "-d", help="A folder, org/repo/sub/folder or catalog name."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Default: cards.sqlite beside the dictionary (FILE.cards.sqlite)."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Whose tokenizer examples.safetensors needs; default: its own."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Only explanations whose model or type has this in its name."),
    ] = None,
) -> None:
    """Import labels, examples and statistics that were published for a dictionary.

    They fill what its cards lack: measurements of your own (`steerdeck make describe`) stay, and a
    written label replaces one made of tokens. A running server shows them after a restart.

    [bold]Examples[/bold]

      steerdeck features import v1/gemma-2-2b/20-gemmascope-res-16k -d gemma-2-2b-it

      steerdeck features import ./sae/examples.safetensors -d ./sae -m google/gemma-3-1b-it

      steerdeck features import math/autointerp.csv -d Goodfire/DeepSeek-R1-SAE-l37/math
    """
    with making():
        from dictionaries.asked import asked
        from dictionaries.beside import cards_beside
        from dictionaries.catalog import pairing
        from dictionaries.hub import find_files
        from dictionaries.making import gemma_examples, label_table, neuronpedia

        if not source.exists():
            fail(f"{source} is not there")
        want = asked(dictionary)
        paired = pairing(want.name)
        path = find_files(paired.dictionary if paired else want.name, kind="dictionary")
        opened = want.open(path)
        target = out or cards_beside(opened.path)
        examples = source / "examples.safetensors" if source.is_dir() else source
        if source.is_dir() and neuronpedia.recognise(source):
            done = neuronpedia.import_export(source, opened, target, by=by)
            said = f"{done.rows:,} rows; {done.labelled:,} features have a written label"
        elif gemma_examples.recognise(examples):
            texts = _texts(model, opened)
            made = gemma_examples.import_examples(examples, opened, target, texts)
            said = f"cards of {made:,} features"
        elif label_table.recognise(source):
            labelled = label_table.import_table(source, opened, target)
            said = f"{labelled:,} features have a written label"
        else:
            fail(
                f"{source} is neither a folder of Neuronpedia's export (with features/, "
                "activations/ or explanations/ of batch-*.jsonl.gz) nor an examples.safetensors "
                "nor a .csv with the columns feature_id and label"
            )
    typer.echo(f"{target}: {said}")


def _texts(model: str | None, dictionary: Dictionary) -> Callable[[int], str]:
    from transformers import AutoTokenizer

    from dictionaries.making.token_text import TokenTexts

    name = model or dictionary.info.model
    if name is None:
        fail("the dictionary does not say which model it is of: give --model, for its tokenizer")
    return TokenTexts(AutoTokenizer.from_pretrained(name))
