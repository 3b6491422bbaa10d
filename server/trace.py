"""What `trace` tells of every token: the edits at work, and what they did to the model."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from .engine.types import Contrast, Likely, Token
from .schemas.replies import Outlook, SteeringTold, TokenKl, TokenReading, TokenTop

LOWEST = -9999.0  # OpenAI's stand-in for the log probability of the impossible


def traced(tokens: Sequence[Token], asked: Collection[str]) -> SteeringTold:
    """asked: of "activations", "kl" and "top"; the tokens carry what these take."""
    told: SteeringTold = {}
    if "activations" in asked:
        told["activations"] = [_reading(token) for token in tokens]
    compared = [(token, token.contrast) for token in tokens if token.contrast is not None]
    if "kl" in asked:
        told["kl"] = [_kl(token, contrast) for token, contrast in compared]
    if "top" in asked:
        told["top"] = [_top(token, contrast) for token, contrast in compared]
    return told


def finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def possible(logprob: float | None) -> float:
    return logprob if logprob is not None and math.isfinite(logprob) else LOWEST


def _reading(token: Token) -> TokenReading:
    return {
        "token": token.text,
        "features": [
            {
                "feature": f"{r.dictionary}/{r.feature}",
                "before": finite(r.before),
                "after": finite(r.after),
            }
            for r in token.readings
        ],
    }


def _kl(token: Token, contrast: Contrast) -> TokenKl:
    return {"token": token.text, "kl": finite(contrast.kl)}


def _top(token: Token, contrast: Contrast) -> TokenTop:
    return {
        "token": token.text,
        "steered": _outlook(contrast.logprob, contrast.top),
        "unsteered": _outlook(contrast.unsteered_logprob, contrast.unsteered_top),
    }


def _outlook(logprob: float, top: Sequence[Likely]) -> Outlook:
    likely = [{"token": one.text, "logprob": possible(one.logprob)} for one in top]
    return {"logprob": possible(logprob), "top": likely}  # type: ignore[typeddict-item]
