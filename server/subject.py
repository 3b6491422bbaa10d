"""What `steerdeck make` works on: a model, the place where a dictionary reads it, and a speaker,
opened by the names that `steerdeck serve` takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dictionaries.beside import cards_of
from dictionaries.dictionary import Dictionary

from .engine.load import load_model
from .errors import BadRequest
from .loading import Wanted, find, pick_device, wanted
from .model_subject import ModelSubject
from .settings import read_settings
from .speaker import EngineSpeaker


@dataclass(frozen=True)
class Loaded:
    """A model as its files have it. name: the catalog's, or the last part of the folder's."""

    name: str
    path: Path
    model: Any
    tokenizer: Any


@dataclass
class Bench:
    """An opened pair. cards: the feature cards' file, whether or not it is there yet."""

    loaded: Loaded
    dictionary: Dictionary
    subject: ModelSubject
    cards: Path
    _closing: ExitStack = field(repr=False)

    def speaker(self, *, rows: int = 32, context: int = 512) -> EngineSpeaker:
        """An engine over the same weights, closed with the bench.

        rows: replies made at once. context: tokens of prompt + reply, more where they are longer;
        memory is rows x context.
        """
        speaker = EngineSpeaker(
            self.loaded.model, self.loaded.tokenizer, self.dictionary, rows=rows, context=context
        )
        self._closing.callback(speaker.close)
        return speaker


@contextmanager
def subject(
    model: str, dictionary: str | None = None, *, device: str = "auto", dtype: str = "auto"
) -> Iterator[Bench]:
    """Open a model and one dictionary of it by the names `steerdeck serve` takes.

    dictionary: a folder, a Hub name, or a catalog name (for its dictionary); None: that of the
    catalog's pairing `model`. Raises SteerdeckError, DictionaryError or OSError.
    """
    want = _wanted(model, dictionary)
    if not want.dictionaries:
        raise BadRequest(f"{model!r} is no name of the catalog: say which dictionary with it")
    first = want.dictionaries[0]
    opened = first.open(find(first.name, "dictionary"))
    loaded = load(model, device=device, dtype=dtype)
    with ExitStack() as closing:
        yield Bench(
            loaded=loaded,
            dictionary=opened,
            subject=ModelSubject(loaded.model, loaded.tokenizer, opened.info.site, opened),
            cards=want.cards[0] or cards_of(opened.path, opened.info),
            _closing=closing,
        )


def load(model: str, *, device: str = "auto", dtype: str = "auto") -> Loaded:
    """A model alone, by the names `steerdeck serve` takes."""
    want = _wanted(model, None)
    path = find(want.model, "model")
    made, tokenizer = load_model(
        path, device=pick_device(device), dtype=None if dtype == "auto" else dtype
    )
    return Loaded(want.name, path, made, tokenizer)


def _wanted(model: str, dictionary: str | None) -> Wanted:
    try:
        given = (dictionary,) if dictionary else ()
        return wanted(read_settings(model=model, dictionary=given, cards=()))
    except ValueError as error:  # a STEERDECK_ variable that is no setting's value
        raise BadRequest(str(error)) from error
