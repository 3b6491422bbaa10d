"""Each feature alone: one question answered by the whole rack and by every feature of it by itself,
as columns.
"""

from __future__ import annotations

from .columns import Way
from .errors import RackError
from .rack import Rack
from .transcript import named

MOST = 15  # the service takes 16 variants, and all together are one


def ways(rack: Rack) -> list[Way]:
    """The features that act, together and each alone. RackError where they are too few or many."""
    on = tuple(held for held in rack if held.on)
    if len(on) < 2:
        raise RackError(
            f"“Each feature alone” needs two features or more that are switched on: {len(on)} here."
            " Add another, or take the mark away."
        )
    if len(on) > MOST:
        raise RackError(
            f"{len(on)} features are switched on, and “Each feature alone” shows at most {MOST}:"
            " switch some off."
        )
    alone = zip(on, named(on), strict=True)
    return [
        Way("steered", on, "All together"),
        *(Way(f"alone {i}", (held,), name) for i, (held, name) in enumerate(alone, 1)),
    ]


def able(rack: Rack) -> bool:
    return 2 <= sum(held.on for held in rack) <= MOST
