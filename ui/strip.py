"""Where each feature fired: the service's trace, packed for the token strip under a reply."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Packed = list[tuple[str, list[tuple[int, float, float]]]]  # (token, [(colour, before, after)])


def tokens(chunk: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The traced tokens of one chunk; empty where the chunk carries no trace."""
    steering = chunk.get("steering")
    traced = steering.get("activations") if isinstance(steering, Mapping) else None
    return [one for one in traced if isinstance(one, Mapping)] if isinstance(traced, list) else []


def pack(traced: Sequence[Mapping[str, Any]], colours: Mapping[str, int]) -> Packed:
    """Tokens with the readings of the features that have a colour, to three digits.

    The strip is sent to the browser as it grows, so it is kept short: `colours` maps a feature's
    reference to the number of its colour.
    """
    return [(str(one.get("token", "")), _readings(one, colours)) for one in traced]


def _readings(
    token: Mapping[str, Any], colours: Mapping[str, int]
) -> list[tuple[int, float, float]]:
    readings = []
    for reading in token.get("features") or ():
        colour = colours.get(str(reading.get("feature")))
        if colour is not None:
            readings.append((colour, _short(reading.get("before")), _short(reading.get("after"))))
    return readings


def _short(value: object) -> float:
    known = isinstance(value, (int, float)) and math.isfinite(value)
    return float(f"{value:.3g}") if known else 0.0
