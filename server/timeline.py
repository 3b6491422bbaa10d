"""How much of live steering a reply takes: its receipt must be a request that is accepted."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock

from .engine.guard import Mode
from .engine.types import Change, Delta, Finish, Request, Steering
from .errors import BadRequest
from .schemas.steering import MAX_ENTRIES, MAX_TIMELINE


class Timeline:
    """What one row's changes come to: those asked for at first, live ones, a guard's steps back.

    The event loop hears of the row; another thread checks and notes live changes.
    """

    def __init__(self, changes: Iterable[Change], steps: int = 0) -> None:
        """changes: one at 0 is what the reply begins with, and none of its timeline. steps: that
        its guard may take back from one steering.
        """
        self._steps = steps
        self._weights = {change.at: weight(change.steering) for change in changes}
        self._told = self._noted = 0  # tokens that came; where the last live change holds from
        self._ended = False
        self._lock = Lock()

    def check(self, steering: Steering) -> None:
        """Raise BadRequest for one change more than a replay could carry.

        What is scheduled beyond the tokens that came does not count: the change discards it.
        """
        with self._lock:
            if self._ended:
                return
            reached = max(self._told, self._noted)
            kept = [size for at, size in self._weights.items() if 0 < at <= reached]
        own = 1 + self._steps
        if told := _too_many(len(kept) + own, sum(kept) + own * weight(steering)):
            raise BadRequest(
                f"with this change the reply may have {told}: let it go on as it is, or stop it",
                param="id",
            )

    def note(self, at: int, steering: Steering) -> None:
        """This steering holds from token `at` on: what was to come from there on does not."""
        with self._lock:
            kept = {token: size for token, size in self._weights.items() if token < at}
            self._weights, self._noted = {**kept, at: weight(steering)}, at

    def hear(self, event: Delta | Finish) -> None:
        """A step back has as many edits as what it lowers, at most."""
        with self._lock:
            if isinstance(event, Finish):
                self._ended = True
                return
            self._told += len(event.tokens)
            for alarm in event.alarms:
                if alarm.action is Mode.BACK_OFF:
                    held = max((at for at in self._weights if at <= alarm.at), default=0)
                    self._weights.setdefault(alarm.at + 1, self._weights.get(held, 0))


def check_replayable(request: Request) -> None:
    """Raise BadRequest where what is asked for and all that its guard may do is more than a replay
    could carry.
    """
    later = [weight(change.steering) for change in request.changes]
    asked = [weight(request.steering), *later]
    steps = guard_steps(request, len(asked))
    if told := _too_many(len(later) + steps, sum(later) + steps * max(asked)):
        raise BadRequest(
            f"with all steps that its guard may take back the reply may have {told}: send fewer "
            "changes or edits, a guard of another mode, or a smaller max_completion_tokens",
            param="steering.timeline",
        )


def guard_steps(request: Request, steerings: int = 1) -> int:
    """The most that its guard may step back from so many steerings, one after another."""
    if request.guard is None:
        return 0
    return request.guard.steps(steerings, request.sampling.max_tokens)


def _too_many(entries: int, total: int) -> str:
    """What is wrong with a timeline of so many changes, edits and conditions; "" if nothing is."""
    if entries <= MAX_ENTRIES and total <= MAX_TIMELINE:
        return ""
    return (
        f"{entries} changes with {total} edits and conditions, and a receipt can replay "
        f"{MAX_ENTRIES} with {MAX_TIMELINE}"
    )


def weight(steering: Steering) -> int:
    """As `WireChange.weight` counts it, of the receipt's entry."""
    waiting = sum(edit.timing.when is not None for edit in steering.edits)
    return len(steering.edits) + waiting + len(steering.aborts)
