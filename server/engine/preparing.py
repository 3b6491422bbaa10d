"""From a Steering as it is asked for to what is written to a row of the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from dictionaries.edits import FeatureRows
from dictionaries.errors import DictionaryError

from ..errors import Unsteerable
from .checks import check_steering
from .conditions import ALWAYS
from .mount import Mount
from .prefix import Mark, marks
from .tables import Entries, Phase, acts_in, entries
from .types import FeatureEdit, Steering

_REMEMBERED = 64  # steerings whose rows are held ready


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


class Preparer:
    """Reads the rows of edited and watched features from the mounts, by dictionary.

    `prepare`: from any thread; raises Unsteerable. The last steerings are remembered, as a request
    is checked aside and submitted on the loop, and presets come again and again.
    """

    def __init__(self, mounts: Mapping[str, Mount], max_edits: int) -> None:
        self._mounts, self._max_edits = mounts, max_edits
        self.prepare = lru_cache(_REMEMBERED)(self._prepare)

    def _prepare(self, steering: Steering) -> Prepared:
        loaded = {name: mount.info for name, mount in self._mounts.items()}
        check_steering(steering, loaded, self._max_edits)
        editing: dict[str, list[FeatureEdit]] = {}
        for edit in steering.edits:
            editing.setdefault(edit.dictionary, []).append(edit)
        watching: dict[str, list[int]] = {}
        for condition in steering.conditions:
            watching.setdefault(condition.dictionary, []).append(condition.feature)
        prepared: dict[str, Entries] = {}
        watched: dict[str, FeatureRows] = {}
        for name in dict.fromkeys((*editing, *watching)):
            try:
                if name in editing:
                    prepared[name] = self._mounts[name].prepare(editing[name])
                if name in watching:
                    watched[name] = self._mounts[name].watched(watching[name])
            except DictionaryError as error:
                raise Unsteerable(f"Dictionary {name!r}: {error}", param="steering") from error
        return self._made(steering, prepared, watched)

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
