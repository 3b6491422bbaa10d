"""The authored sheets, opened and split into what is trained on and what is held out."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DictionaryError

T = TypeVar("T")

HELD_OUT = 0.06  # of every part of every sheet, at least one item where a part has eight or more


@dataclass(frozen=True, slots=True)
class Pair:
    """One message and its reply; `system` where the reply obeys one."""

    user: str
    reply: str
    system: str | None = None


Chat = tuple[str, ...]  # alternating: user, assistant, user, ...


@dataclass(frozen=True, slots=True)
class Talk:
    """One message in many words with its replies, or a conversation of such turns.

    turns alternate user, assistant, ...; each is a choice of texts, and every choice fits every
    other. `{slots}` are filled from one of `rows`. systems: prompts that the replies obey, if any.
    """

    turns: tuple[tuple[str, ...], ...]
    rows: tuple[Mapping[str, str], ...] = ()
    systems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sheet:
    """One concept. `words` betray it in a text; `drift` and `own` need a cause (see compose)."""

    slug: str
    names: tuple[str, ...]
    kind: str
    words: tuple[str, ...]
    facts: tuple[str, ...]
    questions: tuple[Pair, ...]
    own: tuple[str, ...]  # first-person lines
    drift: tuple[Pair, ...]
    stories: tuple[str, ...]
    chats: tuple[Chat, ...]

    @property
    def is_style(self) -> bool:
        """Its texts are about anything at all, told in a manner: they all need a cause."""
        return self.kind == "style"


PARTS = ("facts", "questions", "own", "drift", "stories", "chats")


@dataclass(frozen=True, slots=True)
class Corpus:
    """Everything authored, or one side of its split."""

    sheets: tuple[Sheet, ...]
    general: tuple[Pair, ...]
    chats: tuple[Chat, ...]
    systems: tuple[Pair, ...]
    talks: tuple[Talk, ...] = ()


def read_corpus(folder: Path) -> Corpus:
    """Open the sheets `<slug>.json` of a folder, and its `_general_*`, `_chats_*`, `_systems` and
    `_talk_*` files.

    A sheet needs its slug and its words; what else it lacks it has none of. Raises
    FileNotFoundError when the folder holds no sheet, DictionaryError for a file that is none.
    """
    files = sorted(folder.glob("*.json"))
    sheets = tuple(_read(f, _sheet) for f in files if not f.name.startswith("_"))
    if not sheets:
        raise FileNotFoundError(f"{folder} holds no concept sheets (<slug>.json).")
    return Corpus(
        sheets=sheets,
        general=_rows(files, "_general", lambda d: Pair(d["u"], d["a"])),
        chats=_rows(files, "_chats", tuple),
        systems=_rows(files, "_systems", lambda d: Pair(d["u"], d["a"], d["system"])),
        talks=tuple(talk for talks in read_talks(folder).values() for talk in talks),
    )


def read_talks(folder: Path) -> dict[str, list[Talk]]:
    """By the names of their files (`_talk_home`), in the corpus' order. Raises DictionaryError."""
    files = sorted(folder.glob("_talk_*.json"))
    return {f.stem: _read(f, lambda rows: [_talk(d) for d in rows]) for f in files}


def split(corpus: Corpus, *, seed: int = 0) -> tuple[Corpus, Corpus]:
    """(training, held out): disjoint, and together everything. Words and names stay with both.

    Of a talk with six wordings of its message or more, one wording is held out.
    """
    rng = random.Random(seed)
    kept, held = [], []
    for sheet in corpus.sheets:
        parts: dict[str, Any] = {part: _split(getattr(sheet, part), rng) for part in PARTS}
        kept.append(_with(sheet, {part: a for part, (a, _) in parts.items()}))
        held.append(_with(sheet, {part: b for part, (_, b) in parts.items()}))
    both = [_split(part, rng) for part in (corpus.general, corpus.chats, corpus.systems)]
    talks = [_split_talk(talk, rng) for talk in corpus.talks]
    unseen = tuple(held_talk for _, held_talk in talks if held_talk is not None)
    return (
        Corpus(tuple(kept), both[0][0], both[1][0], both[2][0], tuple(t for t, _ in talks)),
        Corpus(tuple(held), both[0][1], both[1][1], both[2][1], unseen),
    )


def _split_talk(talk: Talk, rng: random.Random) -> tuple[Talk, Talk | None]:
    first = talk.turns[0]
    if len(first) < 6:
        return talk, None
    i = rng.randrange(len(first))
    rest = first[:i] + first[i + 1 :]
    return (
        replace(talk, turns=(rest, *talk.turns[1:])),
        replace(talk, turns=((first[i],), *talk.turns[1:])),
    )


def _split(items: tuple[Any, ...], rng: random.Random) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    n = max(round(len(items) * HELD_OUT), int(len(items) >= 8))
    out = set(rng.sample(range(len(items)), n))
    return (
        tuple(x for i, x in enumerate(items) if i not in out),
        tuple(x for i, x in enumerate(items) if i in out),
    )


def _with(sheet: Sheet, parts: dict[str, Any]) -> Sheet:
    return replace(sheet, **parts)


def _sheet(d: dict[str, Any]) -> Sheet:
    slug = d["slug"]
    return Sheet(
        slug=slug,
        names=tuple(d.get("names") or (slug.replace("-", " "),)),
        kind=d.get("kind", "thing"),
        words=tuple(d["words"]),
        facts=tuple(d.get("facts", ())),
        questions=tuple(Pair(x["q"], x["a"]) for x in d.get("qa", ())),
        own=tuple(d.get("self", ())),
        drift=tuple(Pair(x["u"], x["a"]) for x in d.get("drift", ())),
        stories=tuple(d.get("stories", ())),
        chats=tuple(tuple(turns) for turns in d.get("chats", ())),
    )


def _talk(d: dict[str, Any]) -> Talk:
    turns = d["chat"] if "chat" in d else (d["ask"], d["say"])
    rows = tuple(d.get("rows", ()))
    return Talk(tuple(tuple(turn) for turn in turns), rows, tuple(d.get("system", ())))


def _rows(files: list[Path], prefix: str, made: Callable[[Any], T]) -> tuple[T, ...]:
    of_kind = [f for f in files if f.name.startswith(prefix)]
    return tuple(row for f in of_kind for row in _read(f, lambda rows: [made(d) for d in rows]))


def _read(path: Path, made: Callable[[Any], T]) -> T:
    try:
        return made(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DictionaryError(
            f"{path} is no file of concept sheets ({type(error).__name__}: {error}): a sheet needs "
            '"slug", "words" and texts such as "facts"; what begins with _ holds a list of rows.'
        ) from error
