"""Whether a dictionary fits its model, measured: how many features fire on a token of real text.

A dictionary of another model or layer, or one whose input scale is missing, opens and steers, and
nothing looks wrong; but far too few or too many of its features fire, and it rebuilds little of
what it reads.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .containers import open_tensors
from .dictionary import Dictionary
from .edits import frame, read
from .errors import DictionaryError
from .formats.common import is_number

WHOLE = 2**30  # bytes of W_enc in float32, up to which all features are run
_SAMPLED, _STRETCH = 8192, 512  # features of a larger one, and how many of them lie together
_WINNERS = 64  # tokens whose k features are rebuilt from, of a larger TopK
_FAR = 3.0  # times more, or fewer, features than expected
_EXPLAINED = 0.3  # of the variance; a dictionary in its place rebuilds well over half
_CONFIGS = ("cfg.json", "config.json", "hyperparams.json", "packed.json")
_KEYS = ("l0", "k", "top_k", "training_k")


@dataclass(frozen=True, slots=True)
class Fit:
    """What was measured. warning: a sentence, where the dictionary may not fit its model."""

    l0: float  # features that fire on a token, estimated from `features` of them
    expected_l0: float | None  # as published; None if nothing says so
    explained: float | None  # of the variance of what is read; None of a large one without a k
    tokens: int
    features: int
    warning: str | None


def measure(dictionary: Dictionary, x: Tensor, expected: float | None = None) -> Fit | None:
    """Run the dictionary on x [tokens, d_in], float32, of its own site.

    None if its activations cannot be read, by a single token or by this memory.
    """
    info = dictionary.info
    if not info.reads_exactly or (info.k and not dictionary.can_keep_encoder(x.device)):
        return None
    expected = expected_l0(dictionary) or expected
    explained: float | None = None
    features = info.d_sae
    if 4 * info.d_in * info.d_sae <= WHOLE:
        f = dictionary.encode(x)
        fired = int((f != 0).sum())
        explained = _explained(x, dictionary.decode(f, x))
    elif info.k is not None:
        # How many fire is no measurement here: k always do. What they rebuild is one.
        x = x[torch.linspace(0, len(x) - 1, min(len(x), _WINNERS)).long()]
        values, ids = dictionary.top(x, info.k)
        fired = int((values != 0).sum())
        explained = _explained(x, dictionary.rebuilt(values, ids, x))
    else:
        fired, features = _sampled(dictionary, x)
    l0 = fired / len(x) * info.d_sae / features
    warning = _warning(dictionary, l0, expected, explained)
    return Fit(l0, expected, explained, len(x), features, warning)


def _explained(x: Tensor, rebuilt: Tensor) -> float:
    """The fraction of the variance of x [tokens, d_in] that is rebuilt."""
    off, all_ = (x - rebuilt).square().sum(), (x - x.mean(0)).square().sum()
    return 1 - (off / all_.clamp_min(1e-12)).item()


def _sampled(dictionary: Dictionary, x: Tensor) -> tuple[int, int]:
    """(activations that are not 0, features looked at) of stretches spread over all features.

    Stretches, because a row of most layouts costs little more than one alone.
    """
    h, _ = frame(x, dictionary.info.norm)
    cutoff = dictionary.cutoff(h)
    starts = torch.linspace(0, dictionary.info.d_sae - _STRETCH, _SAMPLED // _STRETCH).long()
    fired = 0
    for start in starts.tolist():
        rows = dictionary.rows(range(start, start + _STRETCH)).map(lambda t: t.to(h.device))
        fired += int((read(h, rows, cutoff) != 0).sum())
    return fired, len(starts) * _STRETCH


def _warning(
    dictionary: Dictionary, l0: float, expected: float | None, explained: float | None
) -> str | None:
    info = dictionary.info
    least, most = (expected / _FAR, expected * _FAR) if expected else (0.5, info.d_in)
    wrong = []
    if not least <= l0 <= most:
        should = f"{expected:.3g} are expected" if expected else f"{least} to {most} are usual"
        wrong.append(f"{l0:.3g} of its features fire on a token of plain text, where {should}")
    if explained is not None and explained < _EXPLAINED:
        wrong.append(f"it rebuilds {max(explained, 0):.0%} of the variance of what it reads there")
    if not wrong:
        return None
    return (
        f"dictionary {info.id!r} may not fit this model at {info.site}: {' and '.join(wrong)}. "
        f"It was made for {info.model or 'a model its files do not name'}; is it this model, this "
        "layer, and is no scale of its inputs missing?"
    )


def expected_l0(dictionary: Dictionary) -> float | None:
    """Features a token as the dictionary's own files say: k, a measured L0, firing frequencies."""
    if dictionary.info.k is not None:
        return float(dictionary.info.k)
    path = dictionary.path
    folder = path if path.is_dir() else path.parent
    told = re.search(r"average_l0_(\d+)", str(path))
    if told:
        return float(told[1])
    frequencies = folder / "sparsity.safetensors"
    if frequencies.is_file() and (fired := _added_up(frequencies)):
        return fired
    for name in _CONFIGS:
        if found := _number(folder / name):
            return found
    return None


def _added_up(path: Path) -> float | None:
    """SAELens' log10 of how often each feature fires, as features a token; None if unreadable."""
    try:
        fired = float((10 ** open_tensors(path)["sparsity"].load()).sum())
    except (DictionaryError, KeyError):  # beside the dictionary, which works without it
        return None
    return fired if math.isfinite(fired) else None


def _number(path: Path) -> float | None:
    """The first of the keys that a config, or an object in it, gives a positive number for."""
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, dict):
        return None
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in _KEYS:
            value = part.get(key)
            if is_number(value) and value > 0:
                return float(value)
    return None
