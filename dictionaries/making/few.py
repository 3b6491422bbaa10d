"""Few talks, each met often, and of the others only that they are not known.

Of tens of thousands of talks that come up once or twice each a small model learns nothing. A
corpus may name the ones to be learnt well in `_few.json`:

    {"times": {"_talk_feel": 2, ...},                      files dealt whole, and how often
     "well": {"times": 5, "asks": {"_talk_home": [...]}},  talks of other files, by first message
     "far": [{"say": [...], "asks": {...}}, ...]}          those answered by admitting it
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import DictionaryError
from .sheets import Corpus, Talk, read_talks

FEW = "_few.json"
ADMISSIONS = 6  # of a kind's, for one message


def few(folder: Path, corpus: Corpus, *, seed: int = 0) -> Corpus:
    """`corpus`, one side of the split of the sheets in `folder`, with the talks that its
    `_few.json` names.

    Raises DictionaryError where there is none, or it names what is not in the folder.
    """
    path = folder / FEW
    if not path.is_file():
        raise DictionaryError(f"{folder} has no {FEW}, which says what few talks to learn well.")
    try:
        wanted = json.loads(path.read_text(encoding="utf-8"))
        talks = tuple(_dealt(wanted, _by_file(folder, corpus.talks), random.Random(seed)))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DictionaryError(
            f'{path} cannot be followed ({type(error).__name__}: {error}): it needs "times", '
            '"well" and "far", with files and first messages that are there.'
        ) from error
    return replace(corpus, talks=talks)


def _by_file(folder: Path, talks: Sequence[Talk]) -> dict[str, dict[str, Talk]]:
    """The talks, which are in the order of the files, by file and first message as written."""
    left = iter(talks)
    return {
        name: {talk.turns[0][0]: next(left) for talk in written}
        for name, written in read_talks(folder).items()
    }


def _dealt(
    wanted: Mapping[str, Any], known: Mapping[str, Mapping[str, Talk]], rng: random.Random
) -> Iterator[Talk]:
    for name, times in wanted["times"].items():
        yield from [*known[name].values()] * times
    well = wanted["well"]
    yield from _named(well["asks"], known) * well["times"]
    for kind in wanted["far"]:
        for talk in _named(kind["asks"], known):
            yield Talk((talk.turns[0], tuple(rng.sample(kind["say"], ADMISSIONS))))


def _named(
    asks: Mapping[str, Sequence[str]], known: Mapping[str, Mapping[str, Talk]]
) -> list[Talk]:
    return [known[name][ask] for name, given in asks.items() for ask in given]
