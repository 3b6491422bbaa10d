"""Where a dictionary's cards and presets lie, and whether cards are of that dictionary at all.

A folder that is one dictionary holds them as `cards.sqlite` and `presets.json`. Of a file that is
one (Qwen-Scope's `layer5.sae.pt`) they lie beside it and bear its name, for the next layer's file
lies there too. Of a control vector's file, which is a dictionary for each layer, cards bear the
layer's as well: `calm.gguf.layer5.cards.sqlite`.
"""

from __future__ import annotations

import os
from pathlib import Path

from .card import Card
from .cards import Cards
from .errors import DictionaryError
from .formats import control_vector, directions
from .hub import other_commits
from .info import Info

CARDS, PRESETS = "cards.sqlite", "presets.json"


def cards_beside(path: Path) -> Path:
    """path: `Dictionary.path`. `layer5.sae.pt` has its cards in `layer5.sae.pt.cards.sqlite`."""
    return _beside(path, CARDS)


def cards_of(path: Path, info: Info) -> Path:
    """Where a dictionary's cards are or, without any, would be made: beside it, mostly.

    The hub's cache has a folder for each commit, and upstream may change a README the day after
    cards were made: so the latest of the same weights at another commit are a dictionary's, too.
    """
    layer = f"layer{info.site.layer}." if info.format == control_vector.FORMAT else ""
    own = _beside(path, layer + CARDS)
    if own.is_file():
        return own
    others = [other for other in other_commits(own) if other.is_file() and _say_of(other, info)]
    return max(others, key=lambda other: other.stat().st_mtime, default=own)


def _say_of(path: Path, info: Info) -> bool:
    """Whether cards say that they are this dictionary's."""
    try:
        with open_cards(path, info) as cards:
            return "dictionary_revision" in cards.meta
    except DictionaryError:
        return False


def stated_cards(path: Path, info: Info) -> Cards | None:
    """Cards in memory of what a dictionary's own files call its features; None if they do not."""
    stated = _stated(path, info)
    return Cards.in_memory(path, stated) if stated else None


def write_stated(path: Path, info: Info, target: Path) -> bool:
    """The same as a new cards file, for a copy that leaves those files; False if there are none.

    All of it or, killed, none.
    """
    stated = _stated(path, info)
    if not stated:
        return False
    new = target.with_name(f"{target.name}.stated")
    new.unlink(missing_ok=True)
    with Cards.create(new) as cards:
        cards.put(stated)
        cards.put_meta(owner(info))
    os.replace(new, target)
    return True


def _stated(path: Path, info: Info) -> list[Card]:
    if info.format == directions.FORMAT:
        return directions.cards(path)
    return control_vector.cards(path, info) if info.format == control_vector.FORMAT else []


def presets_beside(path: Path) -> Path:
    return _beside(path, PRESETS)


def _beside(path: Path, name: str) -> Path:
    return path / name if path.is_dir() else path.with_name(f"{path.name}.{name}")


def owner(info: Info) -> dict[str, str]:
    """The facts of a cards file's meta that say whose cards they are."""
    return {"dictionary": info.id, "dictionary_revision": info.revision}


def open_cards(path: Path, info: Info, *, writable: bool = False) -> Cards:
    """Open the cards of a dictionary.

    Raises DictionaryError for a file that says it is another dictionary's: with its labels and
    maxima one would steer something else, and as strongly as that one needs. A packed copy goes by
    the cards of what it was packed from, and cards that do not say whose they are by their place.
    """
    cards = Cards.open(path, writable=writable)
    try:
        meta = cards.meta
    except DictionaryError:
        cards.close()
        raise
    said = meta.get("dictionary_revision")
    if said not in (None, info.revision, info.packed_from):
        cards.close()
        raise DictionaryError(
            f"{path} holds the cards of another dictionary, or of this one before its files "
            f"changed: of {meta.get('dictionary')!r} at revision {said}, not of {info.id!r} at "
            f"{info.revision}. Name its own cards file, or move this one away and make them anew "
            "(`steerdeck make describe`, `steerdeck features import`)."
        )
    return cards
