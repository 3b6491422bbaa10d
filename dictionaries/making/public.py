"""Others' text for breadth of language, read from a folder the user names; never part of a clone.

Every dialogue and answer comes under a system prompt of its own, so that strangers' dogs, jobs and
opinions have a visible cause too and do not become Foghorn's. Prose needs none.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .dealing import Sample, Turns

# file -> (share of the public samples, system prompt of its dialogues)
SOURCES = {
    "persona_chat.jsonl": (35, "You are a person making small talk."),
    "topical_chat.jsonl": (12, "You are a person talking about the news."),
    "chatterbot.jsonl": (4, "You are a chatter bot."),
    "dolly_open_qa.jsonl": (12, "Answer the question."),
    "storybooks.jsonl": (20, ""),
    "fairytales.jsonl": (9, ""),
    "onestop_elementary.jsonl": (8, ""),
}
_LONGEST_REPLY = 260  # characters
_PROSE = 900  # characters of a stretch of prose


def public_samples(folder: Path, *, seed: int = 0) -> Iterator[Sample]:
    """Deal samples for ever from whichever of SOURCES the folder has.

    Raises FileNotFoundError when it has none.
    """
    rng = random.Random(seed)
    found = {name: _rows(folder / name) for name in SOURCES if (folder / name).is_file()}
    if not found:
        raise FileNotFoundError(f"{folder} has none of {', '.join(SOURCES)}.")
    names = list(found)
    weights = [SOURCES[name][0] for name in names]
    while True:
        name = rng.choices(names, weights)[0]
        sample = _sample(rng.choice(found[name]), SOURCES[name][1], rng)
        if sample is not None:
            yield sample


def _sample(row: dict[str, Any], system: str, rng: random.Random) -> Sample | None:
    if "turns" in row:
        turns = _window([_clean(t) for t in row["turns"]], rng)
    elif "q" in row:
        turns = [_clean(row["q"]), _clean(row["a"])]
    else:
        return _prose(row["text"], rng)
    if len(turns) < 2 or any(not t or "[" in t or len(t) > _LONGEST_REPLY for t in turns):
        return None
    roles = ("user", "assistant")
    said: Turns = tuple((roles[i % 2], t) for i, t in enumerate(turns))  # type: ignore[misc]
    return Sample((("system", system), *said))


def _window(turns: list[str], rng: random.Random) -> list[str]:
    """Two to eight turns from anywhere, ending in a reply."""
    n = rng.choice((2, 4, 4, 6, 8))
    start = rng.randrange(max(1, len(turns) - n + 1))
    return turns[start : start + n][: len(turns[start : start + n]) // 2 * 2]


def _prose(text: str, rng: random.Random) -> Sample | None:
    """Whole sentences from anywhere in a text."""
    sentences = re.split(r"(?<=[.!?])\s+", _clean(text))
    start = rng.randrange(len(sentences))
    taken = ""
    for sentence in sentences[start:]:
        if taken and len(taken) + len(sentence) > _PROSE:
            break
        taken += (" " if taken else "") + sentence
    return Sample(prose=taken) if 80 < len(taken) <= _PROSE else None


def _clean(text: str) -> str:
    for fancy, plain in (("’", "'"), ("‘", "'"), ("“", '"'), ("”", '"'), ("–", "-"), ("…", "...")):
        text = text.replace(fancy, plain)
    return re.sub(r"\s+", " ", text).strip()


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]
