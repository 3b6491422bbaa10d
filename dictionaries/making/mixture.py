"""What foghorn is dealt while it learns: authored text, and at first a share of others'."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch

from .compose import Composer
from .data import Text
from .dealing import Sample


def mixed(
    authored: Iterable[Sample], public: Iterable[Sample] | None, share: Iterator[float], seed: int
) -> Iterator[Sample]:
    """Samples of both; `share` says before each how often it is public."""
    choose = torch.Generator().manual_seed(seed)
    ours, theirs = iter(authored), iter(public) if public is not None else None
    for p in share:
        take = theirs is not None and torch.rand((), generator=choose).item() < p
        yield next(theirs) if take and theirs is not None else next(ours)


def public_share(progress: float) -> float:
    """Breadth first, then Foghorn's own voice."""
    return 0.15 if progress < 0.3 else 0.05 if progress < 0.6 else 0.0


def composed(
    text: Text, progress: Callable[[], float], mix: Mapping[str, int], seed: int
) -> Iterator[Sample]:
    """Without end. progress: of the training, which says how much of it is others' text."""
    shares = (public_share(progress()) for _ in itertools.count())
    return mixed(Composer(text.train, seed=seed, mix=mix), text.others(seed), shares, seed)
