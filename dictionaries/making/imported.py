"""What imports of others' labels and evidence share: the file they fill, and whose numbers win."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor

from ..beside import open_cards, owner
from ..card import Card
from ..cards import Cards
from ..dictionary import Dictionary
from ..errors import DictionaryError

BATCH = 512  # cards of one transaction
EXAMPLES = 16  # of a card
BEFORE, AFTER = 48, 16  # tokens of an example around its peak
BY_TOKENS = "tokens"  # `labelled_by` of labels that were built, not written


@contextmanager
def cards_file(path: Path, dictionary: Dictionary) -> Iterator[Cards]:
    """The dictionary's, to be added to, or new; it says from now on whose cards it holds.

    It is a copy, and takes the file's place when all has come: half of an import would pass for
    cards that were there before the next, and half of another dictionary's would stay for good.
    Raises DictionaryError for another dictionary's.
    """
    old = path.is_file()
    with _aside(path) as folder:
        new = Path(folder) / path.name
        if old:
            _copy(path, new)
            open_cards(path, dictionary.info).close()
        opened = open_cards(new, dictionary.info, writable=True) if old else Cards.create(new)
        with opened as cards:
            if "dictionary_revision" not in cards.meta:
                cards.put_meta(owner(dictionary.info))
            yield cards
        os.replace(new, path)


def _copy(path: Path, to: Path) -> None:
    """A cards file as its last whole write left it, be another under way or broken off."""
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as target:
            source.backup(target)
    except sqlite3.Error as error:
        raise DictionaryError(f"{path} cannot be read as cards: {error}.") from error


def _aside(path: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder of the same file system, so that what is made in it can take the place of `path`."""
    try:
        return tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise DictionaryError(f"no cards file can be made at {path}: {error}.") from error


def completed(own: Card | None, found: Card) -> Card:
    """The card there is, with what it lacks from another of the same feature."""
    if own is None:
        return found
    lacking = {
        field.name: getattr(found, field.name)
        for field in fields(Card)
        if getattr(own, field.name) in (None, (), "")
    }
    if own.label:
        lacking.pop("labelled_by", None)
    return replace(own, **lacking)


def in_range(feature: int, dictionary: Dictionary) -> int:
    """Raise DictionaryError for a feature that the dictionary does not have."""
    if not 0 <= feature < dictionary.info.d_sae:
        raise DictionaryError(
            f"what is imported has a feature {feature}, but {dictionary.info.id!r} has features 0 "
            f"to {dictionary.info.d_sae - 1}: it belongs to another dictionary."
        )
    return feature


def decoder_lengths(dictionary: Dictionary) -> Tensor:
    """[d_sae]: |decoder row| of each feature. The decoder is streamed once."""
    lengths = torch.ones(dictionary.info.d_sae)
    for start, rows in dictionary.directions():
        lengths[start : start + len(rows)] = rows.norm(dim=-1)
    return torch.where(lengths > 0, lengths, 1.0)
