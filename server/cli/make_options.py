"""What the commands of `steerdeck make` share: their options, and one sentence when they fail."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import fail
from .machine import set_threads, unix_only

if TYPE_CHECKING:
    from ..subject import Loaded

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A name of the catalog, a folder, or org/name.")
]
DictionaryOption = Annotated[
    str | None,
    typer.Option(
        "--dictionary", "-d", help="An SAE folder or Hub name; default: the catalog entry's."
    ),
]
TextOption = Annotated[
    list[str],
    typer.Option(
        "--text",
        "-t",
        help="A .txt, .md, .jsonl or .json file (.gz too), a folder of these, or "
        "hf:org/name[:config][:split]; may be repeated. Sources and a folder's files take turns; "
        "each is read from its front.",
    ),
]
FieldOption = Annotated[
    str, typer.Option("--field", help="Where JSON records and data sets keep their text.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
DtypeOption = Annotated[
    str, typer.Option(help="Of the model's weights: auto, float32, bfloat16, float16.")
]
ThreadsOption = Annotated[
    int | None, typer.Option(help="CPU threads; default: the physical cores.")
]
SeedOption = Annotated[int, typer.Option(help="The same seed gives the same result.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
DEFAULT_MODEL = "foghorn"
_EVERY = 10.0  # seconds between two lines of the log


@contextmanager
def making(threads: int | None = None) -> Iterator[None]:
    """Around a whole command, before torch is imported: threads, logs, and refusals as a sentence.

    Interrupted, it ends with 130: what is there goes on when the command is started again.
    """
    unix_only()
    set_threads(threads)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "huggingface_hub", "datasets", "fsspec", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        yield
    except ModuleNotFoundError as exc:
        fail(f"this needs the package {exc.name}: pip install '.[making]' in a clone")
    except KeyboardInterrupt as exc:
        fail(str(exc) or "stopped; the same command goes on from here", 130)
    except Exception as exc:
        if not _foreseen(exc):
            raise
        fail(str(exc))


def _foreseen(exc: Exception) -> bool:
    """Whether its message is a sentence for people."""
    from dictionaries.errors import DictionaryError

    from ..errors import SteerdeckError

    return isinstance(exc, SteerdeckError | DictionaryError | OSError)


def model_facts(loaded: Loaded) -> dict[str, str]:
    """Which model a run was of: its name is the last part of a path, and many have the same."""
    from ..loading import revision

    return {"model": loaded.name, "model_revision": revision(loaded.path)}


Advance = Callable[[float, str], None]


@contextmanager
def advancing(what: str, total: float, unit: str) -> Iterator[Advance]:
    """Show how far a long job is: `advance(done, note)` with done of `total` units so far.

    A bar with the time left on a terminal, a line in the log now and then elsewhere. What was done
    in an earlier run does not count for the time left.
    """
    from .making_progress import Bar, Lines

    shown = Bar(what, total, unit) if sys.stderr.isatty() else Lines(what, total, unit, _EVERY)
    with shown:
        yield shown.advance
