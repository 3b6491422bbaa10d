"""Authored concepts as labelled text: which sheet a text stands in says what it is about.

A sheet is `<slug>.json`: {"slug", "words", and texts under any of "facts", "self", "stories" (a
list of texts), "qa" ({"q", "a"}), "drift" ({"u", "a"}), "chats" (lists of turns, user first)}.
Files whose name begins with `_` hold [{"u", "a"}] or lists of turns about nothing in particular.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..card import Card
from ..errors import DictionaryError
from .sources import Document

_WORD = re.compile(r"[\w']+")
_LONGEST = 4  # words of a listed phrase


@dataclass(frozen=True, slots=True)
class Concept:
    """words betray it in a text; one in capitals must be said in capitals."""

    slug: str
    words: tuple[str, ...]
    texts: tuple[Document, ...]

    @property
    def title(self) -> str:
        """golden-gate-bridge: Golden Gate Bridge."""
        small = {"and", "of", "in", "the"}
        words = self.slug.split("-")
        return " ".join(w if w in small and i else w.capitalize() for i, w in enumerate(words))


class Concepts(NamedTuple):
    """calm: texts that stand in no sheet."""

    concepts: tuple[Concept, ...]
    calm: tuple[Document, ...]


class Labelled(NamedTuple):
    """about: the concept whose sheet it stands in. named: others whose words it says."""

    document: Document
    about: int | None
    named: tuple[int, ...]


def read_concepts(folder: Path) -> Concepts:
    """Raises DictionaryError for a folder without sheets, a sheet that is none, and one that holds
    more texts than stand beside it about something else.
    """
    concepts, calm = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            if path.name.startswith("_"):
                calm += [t for row in read if (t := _calm(row))]
            else:
                concepts.append(_concept(read))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
            raise DictionaryError(
                f"{path} is no concept sheet ({type(error).__name__}: {error}): it needs "
                '"slug", "words" and texts such as "facts".'
            ) from error
    if not concepts:
        raise DictionaryError(f"{folder} holds no concept sheets (<slug>.json).")
    known = Concepts(tuple(concepts), tuple(calm))
    _check_rest(known)
    return known


def _check_rest(known: Concepts) -> None:
    """Where hardly any text is about something else, a feature that fires on all texts is as good
    as the concept's own.
    """
    lacking = {at: len(concept.texts) for at, concept in enumerate(known.concepts)}
    for text in labelled(known):
        for at in lacking.keys() - {text.about, *text.named}:
            lacking[at] -= 1
            if not lacking[at]:
                del lacking[at]
        if not lacking:  # after a few texts of each sheet, where there are many
            return
    at, few = next(iter(lacking.items()))
    own = len(known.concepts[at].texts)
    raise DictionaryError(
        f"the sheet of {known.concepts[at].slug} holds {own} texts, and {own - few} that do not "
        "say its words stand beside it. As many are needed to tell the concept from everything "
        'else: add other sheets, or everyday pairs of "u" and "a" in a _general_01.json.'
    )


def labelled(known: Concepts) -> Iterator[Labelled]:
    """Every text with what it is about, the sheets taking turns."""
    index = _Index([c.words for c in known.concepts])
    sides: list[tuple[int | None, Sequence[Document]]] = [
        *((i, c.texts) for i, c in enumerate(known.concepts)),
        (None, known.calm),
    ]
    for at in range(max(len(texts) for _, texts in sides)):
        for about, texts in sides:
            if at < len(texts):
                named = index.named(texts[at]) - {about}
                yield Labelled(texts[at], about, tuple(sorted(i for i in named if i is not None)))


class _Index:
    """Which concepts a text names, by their listed words and phrases; a plural's end is ignored."""

    def __init__(self, lists: Sequence[Sequence[str]]) -> None:
        self._owners: dict[str, set[int | None]] = {}
        for owner, words in enumerate(lists):
            for word in words:
                loud = word.isupper() and len(word) > 1
                key = word if loud else " ".join(_WORD.findall(word.lower()))
                self._owners.setdefault(key, set()).add(owner)

    def named(self, document: Document) -> set[int | None]:
        said = document if isinstance(document, str) else " ".join(m["content"] for m in document)
        written = _WORD.findall(said)
        small = [word.lower() for word in written]
        found: set[int | None] = set()
        for word in written:
            if word.isupper():
                found |= self._owners.get(word, set())
        for n in range(1, _LONGEST + 1):
            for at in range(len(small) - n + 1):
                phrase = " ".join(small[at : at + n])
                for key in (phrase, phrase.removesuffix("s"), phrase.removesuffix("es")):
                    found |= self._owners.get(key, set())
        return found


def _concept(sheet: dict[str, Any]) -> Concept:
    texts: list[Document] = []
    for part in ("facts", "self", "stories"):
        texts += map(str, sheet.get(part, ()))
    texts += [_chat(pair["q"], pair["a"]) for pair in sheet.get("qa", ())]
    texts += [_chat(pair["u"], pair["a"]) for pair in sheet.get("drift", ())]
    texts += [_chat(*turns) for turns in sheet.get("chats", ())]
    if not texts:
        raise KeyError("no texts")
    return Concept(_slug(sheet["slug"]), tuple(sheet["words"]), tuple(texts))


def _slug(slug: Any) -> str:
    """As cards take it: they are written hours after the sheets are read."""
    try:
        Card(0, "", slug=str(slug))
    except DictionaryError as error:
        raise ValueError(str(error).partition(": ")[2].removesuffix(".")) from error
    return str(slug)


def _calm(row: Any) -> Document | None:
    if isinstance(row, list):
        return _chat(*row)
    return _chat(row["u"], row["a"]) if "u" in row and "a" in row else None


def _chat(*turns: str) -> Document:
    roles = ("user", "assistant")
    return tuple({"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns))
