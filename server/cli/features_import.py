"""`steerdeck features import`: others' labels and evidence into a dictionary's feature cards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    written label replaces one made of tokens. Stopped or refused, an import has changed nothing. A
    running server shows it after a restart.

    [bold]Examples[/bold]

      steerdeck features import v1/gemma-2-2b/20-gemmascope-res-16k -d gemma-2-2b-it

      steerdeck features import ./sae/examples.safetensors -d ./sae -m google/gemma-3-1b-it

      steerdeck features import math/autointerp.csv -d Goodfire/DeepSeek-R1-SAE-l37/math
    """
    with making():
        from dictionaries.asked import asked, paired
        from dictionaries.beside import cards_of
        from dictionaries.hub import find_files

        if not source.exists():
            fail(f"{source} is not there")
        want, _ = paired(asked(dictionary))
        opened = want.open(find_files(want.name, kind="dictionary"))
        target = out or cards_of(opened.path, opened.info)
        try:
            said = _imported(source, opened, target, by, model)
        except KeyboardInterrupt:
            fail("stopped; nothing was imported, start the same command again", 130)
    typer.echo(f"{target}: {said}; a server that is running shows them after a restart")


def _imported(
    source: Path, dictionary: Dictionary, target: Path, by: str | None, model: str | None
) -> str:
    """What came, in words."""
    from dictionaries.making import gemma_examples, label_table, neuronpedia

    examples = source / "examples.safetensors" if source.is_dir() else source
    if source.is_dir() and neuronpedia.recognise(source):
        done = neuronpedia.import_export(source, dictionary, target, by=by)
        return f"{done.rows:,} rows; {done.labelled:,} features have a written label"
    if gemma_examples.recognise(examples):
        texts = _texts(model, dictionary)
        made = gemma_examples.import_examples(examples, dictionary, target, texts)
        return f"cards of {made:,} features"
    if label_table.recognise(source):
        labelled = label_table.import_table(source, dictionary, target)
        return f"{labelled:,} features have a written label"
    fail(
        f"{source} is neither a folder of Neuronpedia's export (with features/, activations/ or "
        "explanations/ of batch-*.jsonl.gz) nor an examples.safetensors nor a .csv with the "
        "columns feature_id and label"
    )


def _texts(model: str | None, dictionary: Dictionary) -> Callable[[int], str]:
    from dictionaries.catalog import pairing
    from dictionaries.making.token_text import TokenTexts

    name = model or dictionary.info.model
    if name is None:
        fail("the dictionary does not say which model it is of: give --model, for its tokenizer")
    found = pairing(name)
    return TokenTexts(_tokenizer(found.model if found else name))


def _tokenizer(name: str) -> Any:
    """Of a model on the hub no more is fetched than this: its weights are not asked for."""
    from transformers import AutoTokenizer

    from dictionaries.hub import placed

    local = Path(name).expanduser()
    if local.exists():
        return AutoTokenizer.from_pretrained(local)
    if "/" not in name:  # what dictionaries say of their model, such as "gpt2"
        return AutoTokenizer.from_pretrained(name)
    place = placed(name, "model")
    return AutoTokenizer.from_pretrained(
        place.repo, revision=place.revision or "main", subfolder=place.sub
    )
