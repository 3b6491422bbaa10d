"""How much of live steering a reply takes: its receipt must be a request that is accepted."""

from __future__ import annotations

from collections.abc import Iterable

from .engine.types import Change, Steering
from .errors import BadRequest
from .schemas.steering import MAX_ENTRIES, MAX_TIMELINE


class Timeline:
    """What one row's changes come to, of those that were asked for at first and of live ones."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._weights = {change.at: weight(change.steering) for change in changes}

    def check(self, steering: Steering) -> None:
        """Raise BadRequest for one change more than a replay could carry."""
        entries = len(self._weights) + 1
        total = sum(self._weights.values()) + weight(steering)
        if entries > MAX_ENTRIES or total > MAX_TIMELINE:
            raise BadRequest(
                f"with this change the reply would have {entries} changes with {total} edits and "
                f"conditions, and a receipt can replay {MAX_ENTRIES} with {MAX_TIMELINE}: let it "
                "go on as it is, or stop it",
                param="id",
            )

    def note(self, at: int, steering: Steering) -> None:
        """This steering holds from token `at` on: what was to come from there on does not."""
        self._weights = {token: size for token, size in self._weights.items() if token < at}
        if at > 0:  # else it is what the reply begins with
            self._weights[at] = weight(steering)


def weight(steering: Steering) -> int:
    """As `WireChange.weight` counts it, of the receipt's entry."""
    waiting = sum(edit.timing.when is not None for edit in steering.edits)
    return len(steering.edits) + waiting + len(steering.aborts)
