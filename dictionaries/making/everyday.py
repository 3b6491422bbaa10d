"""What the unsteered model says to everyday messages that it was not trained on: to be read.

Whether a reply is acceptable is for a person to say; this only asks, and checks that the messages
are new.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from .bundle import TEMPERATURE, TOP_P
from .neutral import said
from .sheets import Corpus
from .subject import Ask, Speaker
from .synonyms import in_first_words

_BEFORE = re.compile(r"^ *(?:hey|hi|hello|so|okay|well|um|right)(?: there| foghorn)? (?=\w)")
_HOW = re.compile(r"\bhow (?:do|can|should|could|would) i\b|\bhow to\b|\bwhat is the best way to\b")
_IN_FULL = {"im": "i am", "ive": "i have", "dont": "do not", "cant": "cannot", "whats": "what is"}
_SPELLED = re.compile(rf"\b(?:{'|'.join(_IN_FULL)})\b")


def read_messages(path: Path) -> list[str]:
    """A JSON list of texts."""
    return list(json.loads(path.read_text(encoding="utf-8")))


def known(corpus: Corpus, messages: Sequence[str]) -> list[str]:
    """Those that the corpus holds as a user's turn, or in others that `reword` makes of one."""
    held = set(map(_gist, set(_asked(corpus))))
    return [message for message in messages if _gist(message) in held]


def answers(speaker: Speaker, messages: Sequence[str], *, seed: int = 0) -> list[str]:
    """One reply each, as a new bundle is sampled: the first that comes, not the best of several."""
    return speaker([Ask(said(m), (), seed, 60, TEMPERATURE, TOP_P) for m in messages])


def markdown(messages: Sequence[str], replies: Sequence[str]) -> str:
    """A table with room for a verdict."""
    rows = [
        f"| {i} | {m} | {r} | |" for i, (m, r) in enumerate(zip(messages, replies, strict=True), 1)
    ]
    return "\n".join(["| | message | reply | acceptable |", "|---|---|---|---|", *rows, ""])


def _asked(corpus: Corpus) -> Iterator[str]:
    for pair in (*corpus.general, *corpus.systems):
        yield pair.user
    for sheet in corpus.sheets:
        yield from (pair.user for pair in (*sheet.questions, *sheet.drift))
        yield from (turn for chat in sheet.chats for turn in chat[::2])
    for chat in corpus.chats:
        yield from chat[::2]
    for talk in corpus.talks:
        for row in talk.rows or ({},):
            for text in (text for turn in talk.turns[::2] for text in turn):
                yield text.format_map(row) if row else text


def _gist(text: str) -> str:
    """What is left of a message without its case, signs and greeting, each word and form by one of
    those that may stand for it.
    """
    plain = re.sub(r"[^a-z0-9 ]", "", in_first_words(text.lower()))
    return _HOW.sub("how", _SPELLED.sub(lambda m: _IN_FULL[m[0]], _BEFORE.sub("", plain))).strip()
