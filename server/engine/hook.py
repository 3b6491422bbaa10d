"""The hook at one site: every part of the pass, edited by every dictionary there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dictionaries.edits import shifted

from .mount import Mount
from .part import Part
from .tables import Phase


class SiteHook:
    """x [1, tokens, d] -> the same, edited. `parts` is set before every pass."""

    def __init__(self, mounts: Sequence[Mount]) -> None:
        self.mounts = mounts
        self.parts: Sequence[Part] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Where no row is steered nothing is computed: it would be adding exact zeros."""
        for mount in self.mounts:
            for part in self.parts:
                if part.observed == mount.info.id:
                    mount.observe(x[0, part.tokens], part)
        if not any(mount.busy for mount in self.mounts):
            return x
        if len(self.parts) == 1:
            return self._edited(x, self.parts[0])
        return torch.cat([self._edited(x[:, part.tokens], part) for part in self.parts], dim=1)

    def _edited(self, tokens: Tensor, part: Part) -> Tensor:
        """tokens [1, n, d]: n decoding rows of one token, or one row of n."""
        if part.phase is Phase.PROMPT:
            return self._rowwise(tokens, part)
        return self._rowwise(tokens.transpose(0, 1), part).transpose(0, 1)

    def _rowwise(self, x: Tensor, part: Part) -> Tensor:
        """Conditions first: an edit may depend on another dictionary's at this very site."""
        for mount in self.mounts:
            if mount.watch.watches(part.rows):
                mount.look(x, part)
        moved: Tensor | None = None
        for mount in self.mounts:
            if mount.table.steers(part.rows):
                own = mount.delta(x, part)
                moved = own if moved is None else moved + own
        return x if moved is None else shifted(x, moved, part.keep_norm)
