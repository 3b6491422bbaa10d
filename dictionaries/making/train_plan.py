"""What decides the outcome of a training, and how a folder tells which training it holds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..dictionary import Site
from ..errors import DictionaryError
from .feed import SPLIT

_BUFFER = 2**28  # bytes of residuals held at once, unless it is given in tokens


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """Everything that decides the outcome, beside the model and the text."""

    tokens: int = 20_000_000  # content tokens trained on; a shorter text is read again
    d_sae: int | None = None  # None: 8 * d_in
    k: int = 32  # features a token, on average
    batch: int = 4096  # tokens of a step
    lr: float | None = None  # None: 1e-3 up to 3072 features, less with the root of more
    context: int = 256  # tokens of a row
    rows: int = 16  # of a forward pass
    buffer: int | None = None  # tokens shuffled together; None: 256 MiB of them
    end_to_end: float = 0.0  # share of the tokens, the last, on which costs are counted too
    measured: int = 50_000  # held-out tokens
    seed: int = 0

    def width(self, d_in: int) -> int:
        return 8 * d_in if self.d_sae is None else self.d_sae

    def rate(self, d_in: int) -> float:
        """Gao et al. (arXiv 2406.04093): the best rate falls with the root of the width."""
        usual = 1e-3 * min(1.0, math.sqrt(3072 / self.width(d_in)))
        return usual if self.lr is None else self.lr

    @property
    def without_costs(self) -> int:
        """Tokens before those of the end-to-end finish, at least a batch."""
        if not self.end_to_end:
            return self.tokens
        return round(self.tokens * (1 - self.end_to_end) / self.batch) * self.batch or self.batch

    def round(self, d_in: int) -> int:
        """Tokens of the buffer: whole batches, sixteen or more, no more than are trained on."""
        usual = max(16 * self.batch, _BUFFER // (4 * d_in))
        tokens = usual if self.buffer is None else self.buffer
        return max(1, min(tokens, self.tokens) // self.batch) * self.batch

    def check(self, d_in: int) -> None:
        """Raise DictionaryError for numbers that no training can have."""
        for name in ("tokens", "k", "batch", "rows", "context", "measured", "d_sae", "buffer"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise DictionaryError(f"{name} is {number}: it must be 1 or more.")
        if self.lr is not None and not self.lr > 0:
            raise DictionaryError(
                f"lr is {self.lr}: it must be above 0; one is chosen if left out."
            )
        if not 0 <= self.end_to_end < 1:
            raise DictionaryError(
                f"end_to_end is {self.end_to_end}: it is a share of the tokens, from 0 to below 1."
            )
        if self.k > self.width(d_in):
            raise DictionaryError(
                f"{self.k} of {self.width(d_in)} features are to fire on a token: lower k, or "
                "raise d_sae."
            )


@dataclass(frozen=True, slots=True)
class Origin:
    """What the files say that the dictionary was made from."""

    model: str
    sources: tuple[str, ...]
    field: str = "text"  # of their records
    revision: str | None = None  # the model's: folders of the same name hold different ones
    state: str | None = None  # of the sources' files: `files.text_state`


def made(plan: TrainPlan, origin: Origin, site: Site, d_in: int) -> dict[str, Any]:
    """What a result is told by: the same of this, the same dictionary."""
    return {
        "model": origin.model,
        "model_revision": origin.revision,
        "text": list(origin.sources),
        "text_state": origin.state,
        "field": origin.field,
        "split": SPLIT,
        "site": str(site),
        **asdict(plan),
        "d_sae": plan.width(d_in),
        "lr": plan.rate(d_in),
        "buffer": plan.round(d_in),
    }


def check_same(
    known: dict[str, Any], wanted: dict[str, Any], where: Path, *, trained: bool = False
) -> None:
    """Raise DictionaryError if what lies in `where` was begun with other options.

    trained: only those that decide what is trained, and not how it is measured.
    """
    free = {"measured"} if trained else set()
    other = [_told(n, known.get(n)) for n in wanted if known.get(n) != wanted[n] and n not in free]
    if other:
        raise DictionaryError(
            f"{where} was begun with other options ({', '.join(other)}): give these, choose "
            "another --out, or remove it."
        )


def _told(name: str, value: Any) -> str:
    return "the text as it was then" if name == "text_state" else f"{name} {value}"
