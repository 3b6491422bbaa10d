"""From a Steering as it is asked for to what is written to a row of the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from dictionaries.edits import FeatureRows
from dictionaries.errors import DictionaryError

from ..errors import Unsteerable
from .checks import check_steering
from .conditions import ALWAYS, Condition
from .mount import Mount
from .prefix import Mark, marks
from .tables import Entries, Phase, acts_in, entries
from .types import FeatureEdit, Steering
from .vector_mounts import VectorMounts

_REMEMBERED = 64  # steerings whose rows are held ready
_TOGETHER = 128  # steerings whose rows are read at once


@dataclass(frozen=True, slots=True)
class Prepared:
    """A Steering ready to be written to a row; by phase, `acts` says whether any edit acts,
    and `marks` how tokens are edited (prefix.py).

    watched: by dictionary, the features of its conditions. timed: whether some edit does not always
    act, or a condition is watched.
    """

    steering: Steering
    entries: Mapping[str, Entries]  # by dictionary, its edits in the order of `steering`
    acts: tuple[bool, bool]
    marks: tuple[Mark, Mark]
    watched: Mapping[str, FeatureRows]
    timed: bool


class Turn(NamedTuple):
    """From generated token `at` on, steer this way."""

    at: int
    prepared: Prepared


class Preparer:
    """Reads the rows of edited and watched features from the mounts, by dictionary.

    `prepare`: from any thread; raises Unsteerable. The last steerings are remembered, as a request
    is checked aside and submitted on the loop, and presets come again and again; but none with
    vectors, which go with their request.
    """

    def __init__(self, mounts: Mapping[str, Mount], vectors: VectorMounts, max_edits: int) -> None:
        self._mounts, self._vectors, self._max_edits = mounts, vectors, max_edits
        self._remembered = lru_cache(_REMEMBERED)(self._prepare)

    def prepare(self, steering: Steering) -> Prepared:
        brought = any(edit.vector for edit in steering.edits)
        return self._prepare(steering) if brought else self._remembered(steering)

    def check(self, steering: Steering) -> None:
        """Raise Unsteerable for what `prepare` refuses without reading anything."""
        loaded = {name: mount.info for name, mount in self._mounts.items()}
        check_steering(steering, loaded, self._max_edits)
        for edit in steering.edits:
            if edit.vector is not None:
                self._vectors.check(edit.vector)

    def prepare_all(self, steerings: Sequence[Steering]) -> list[Prepared]:
        """`prepare` of each. Their rows are read together, some steerings at a time: where an
        encoder lies by columns, one row takes a pass over the file, and so do a thousand.
        """
        made: list[Prepared] = []
        for start in range(0, len(steerings), _TOGETHER):
            some = steerings[start : start + _TOGETHER]
            if len(some) > 1:
                self._read(some)
            made += map(self.prepare, some)
        return made

    def _read(self, steerings: Sequence[Steering]) -> None:
        """The rows of all of them, which the dictionaries keep for a while."""
        features: dict[str, set[int]] = {}
        for steering in steerings:
            self.check(steering)
            listed = (edit for edit in steering.edits if edit.vector is None)
            named: list[FeatureEdit | Condition] = [*listed, *steering.conditions]
            for one in named:
                features.setdefault(one.dictionary, set()).add(one.feature)
        for name, own in features.items():
            with _told(name):
                self._mounts[name].dictionary.rows(sorted(own))

    def _prepare(self, steering: Steering) -> Prepared:
        self.check(steering)
        editing: dict[str, list[FeatureEdit]] = {}
        for edit in steering.edits:
            editing.setdefault(edit.dictionary, []).append(edit)
        watching: dict[str, list[int]] = {}
        for condition in steering.conditions:
            watching.setdefault(condition.dictionary, []).append(condition.feature)
        prepared: dict[str, Entries] = {}
        watched: dict[str, FeatureRows] = {}
        for name in dict.fromkeys((*editing, *watching)):
            with _told(name):
                if name in editing:
                    prepared[name] = self._mount(editing[name][0]).prepare(editing[name])
                if name in watching:
                    watched[name] = self._mounts[name].watched(watching[name])
        return self._made(steering, prepared, watched)

    def _mount(self, edit: FeatureEdit) -> Mount:
        vector = edit.vector
        return self._mounts[edit.dictionary] if vector is None else self._vectors.of(vector)

    def lowered(self, before: Prepared, steering: Steering) -> Prepared:
        """The same edits with other numbers, or none of them and the aborts. Reads no rows, so a
        step may call it.
        """
        prepared: dict[str, Entries] = {}
        for name, held in before.entries.items():
            edits = [edit for edit in steering.edits if edit.dictionary == name]
            if edits:
                prepared[name] = entries(held.features, edits)
        watched: dict[str, FeatureRows] = {}
        for name, rows in before.watched.items():
            own = [c for c in before.steering.conditions if c.dictionary == name]
            kept = [own.index(c) for c in steering.conditions if c in own]
            if kept:
                watched[name] = rows.of(kept)
        return self._made(steering, prepared, watched)

    def _made(
        self,
        steering: Steering,
        prepared: Mapping[str, Entries],
        watched: Mapping[str, FeatureRows],
    ) -> Prepared:
        prompt, generated = (any(acts_in(e, phase) for e in steering.edits) for phase in Phase)
        revisions = {name: mount.info.revision for name, mount in self._mounts.items()}
        timed = bool(watched) or any(edit.timing != ALWAYS for edit in steering.edits)
        left = marks(steering, revisions)
        return Prepared(steering, prepared, (prompt, generated), left, watched, timed)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What a dictionary cannot read is a refusal."""
    try:
        yield
    except DictionaryError as error:
        raise Unsteerable(f"Dictionary {name!r}: {error}", param="steering") from error
