"""What a request must show before it is queued, and what that takes to find out."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from itertools import pairwise

from ..errors import BadRequest
from .checks import check_sizes
from .preparing import Turn
from .seam import Capabilities
from .steering import Steerer
from .types import Request
from .warden import Warden

_CHECKED = 128  # requests between `check` and `ready`


def check_names(asked: Sequence[str], running: Iterable[str]) -> None:
    """Raise BadRequest for one that is taken: `name` is, until the last of the rows of its request
    has ended, which are `name`, `name/1` and so on.
    """
    taken = {name.partition("/")[0] for name in running}
    for i, name in enumerate(asked):
        base = name.partition("/")[0]
        if base in taken or name in asked[:i]:
            raise BadRequest(f"A generation {base!r} is already under way.", param="id")


class Admission:
    """From any thread; raises BadRequest, TooLong or Unsteerable for what is amiss in a request."""

    def __init__(self, engine: Capabilities, steerer: Steerer) -> None:
        self._engine, self._steerer = engine, steerer
        self._lock = threading.Lock()
        # By id, which the request itself keeps from being another's.
        self._checked: OrderedDict[int, tuple[Request, deque[Turn]]] = OrderedDict()

    def check(self, request: Request) -> None:
        """Keep what this takes, such as rows read from disk, for `ready`."""
        turns = self._turns(request)
        with self._lock:
            self._checked[id(request)] = request, turns
            while len(self._checked) > _CHECKED:
                self._checked.popitem(last=False)

    def ready(self, request: Request) -> deque[Turn]:
        """The request's steering over time, prepared: by `check`, if that saw the request."""
        with self._lock:
            known, turns = self._checked.pop(id(request), (None, None))
        return turns if known is request and turns is not None else self._turns(request)

    def warden(self, request: Request) -> Warden | None:
        return None if request.guard is None else Warden(request.guard, self._steerer.lowered)

    def _shared(self, request: Request) -> deque[Turn] | None:
        """Those of the request checked before it, if it is one of the n replies to the same: rows
        of a long timeline are then held once.
        """
        with self._lock:
            before, turns = next(reversed(self._checked.values()), (None, ()))
            if before is None or before.steering is not request.steering:
                return None
            long_enough = before.sampling.max_tokens >= request.sampling.max_tokens
            return deque(turns) if before.changes is request.changes and long_enough else None

    def _turns(self, request: Request) -> deque[Turn]:
        check_sizes(request, self._engine)
        points = [change.at for change in request.changes]
        if any(at < 0 for at in points) or any(b <= a for a, b in pairwise(points)):
            raise BadRequest(
                f"Steering changes must come at ascending tokens from 0 on, not at {points}.",
                param="steering.timeline",
            )
        if (shared := self._shared(request)) is not None:
            return shared
        coming = [change for change in request.changes if change.at < request.sampling.max_tokens]
        for change in request.changes[len(coming) :]:  # never read, as the reply ends before
            self._steerer.check(change.steering)
        steerings = [request.steering, *(change.steering for change in coming)]
        prepared = self._steerer.prepare_all(steerings)
        return deque(map(Turn, [0, *(change.at for change in coming)], prepared))
