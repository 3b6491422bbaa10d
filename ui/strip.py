"""What steering did to each token: the service's trace, packed for the strip under a reply."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

# [token, [(colour, before, after)], KL, outlooks], as far as they were told; outlooks are those of
# the steered and the unsteered model: [probability of the token, [(token, probability)]].
Packed = list[list[Any]]

LIKELIEST = 3  # alternatives shown of each model


def tokens(chunk: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The traced tokens of one chunk, each with what is told of it; empty where there is no trace.

    The service tells each kind in a list of its own, a line a token.
    """
    steering = chunk.get("steering")
    if not isinstance(steering, Mapping):
        return []
    merged: list[dict[str, Any]] = []
    for kind in ("activations", "kl", "top"):
        told = steering.get(kind)
        for i, line in enumerate(told if isinstance(told, list) else ()):
            if i == len(merged):
                merged.append({})
            if isinstance(line, Mapping):
                merged[i] |= line
    return merged


def pack(traced: Sequence[Mapping[str, Any]], colours: Mapping[str, int]) -> Packed:
    """Tokens with the readings of the features that have a colour, to three digits.

    The strip is sent to the browser as it grows, so it is kept short: `colours` maps a feature's
    reference to the number of its colour.
    """
    return [_packed(one, colours) for one in traced]


def _packed(one: Mapping[str, Any], colours: Mapping[str, int]) -> list[Any]:
    packed: list[Any] = [str(one.get("token", "")), _readings(one, colours)]
    if "kl" in one or "steered" in one:
        packed.append(_short(one.get("kl")) if one.get("kl") is not None else None)
    if "steered" in one:
        packed.append([_outlook(one.get("steered")), _outlook(one.get("unsteered"))])
    return packed


def _readings(
    token: Mapping[str, Any], colours: Mapping[str, int]
) -> list[tuple[int, float, float]]:
    readings = []
    for reading in token.get("features") or ():
        colour = colours.get(str(reading.get("feature")))
        if colour is not None:
            readings.append((colour, _short(reading.get("before")), _short(reading.get("after"))))
    return readings


def _outlook(told: Any) -> list[Any]:
    told = told if isinstance(told, Mapping) else {}
    likeliest = [one for one in told.get("top") or () if isinstance(one, Mapping)][:LIKELIEST]
    return [
        _probability(told.get("logprob")),
        [[str(one.get("token", "")), _probability(one.get("logprob"))] for one in likeliest],
    ]


def _probability(logprob: object) -> float:
    known = isinstance(logprob, (int, float)) and logprob <= 0
    return _short(math.exp(logprob)) if known else 0.0  # type: ignore[arg-type]


def _short(value: object) -> float:
    known = isinstance(value, (int, float)) and math.isfinite(value)
    return float(f"{value:.3g}") if known else 0.0
