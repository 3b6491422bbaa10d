"""The hook at one site: every part of the pass, edited by every dictionary there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dictionaries.edits import settled

from .mount import Mount
from .native.edits import Move, edited
from .part import Part


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

    def moves(self) -> list[Move] | None:
        """What our own code may do to all rows of a pass, one token each, in place of the call that
        is due; None where it is not for that.
        """
        if any(part.observed for part in self.parts):
            return None
        if not any(mount.busy for mount in self.mounts):
            return []
        if len(self.parts) != 1:
            return None
        part = self.parts[0]
        if not part.apart or part.clock is not None or part.keep_norm is not None:
            return None
        acting = [mount for mount in self.mounts if mount.acts(part.rows)]
        if not all(mount.plain and not mount.watch.watches(part.rows) for mount in acting):
            return None
        return [mount.move(part) for mount in acting]

    def _edited(self, tokens: Tensor, part: Part) -> Tensor:
        """tokens [1, n, d]: n decoding rows of one token, or one row of n."""
        if not any(mount.acts(part.rows) for mount in self.mounts):
            return tokens
        if part.apart:
            return self._rowwise(tokens.transpose(0, 1), part).transpose(0, 1)
        return self._rowwise(tokens, part)

    def _rowwise(self, x: Tensor, part: Part) -> Tensor:
        """Conditions first: an edit may depend on another dictionary's at this very site. What our
        own code edits and what torch does is decided by row, so a row's bits are its own affair.
        """
        for mount in self.mounts:
            if mount.watch.watches(part.rows):
                mount.look(x, part)
        y = x
        moved: Tensor | None = None
        for mount in self.mounts:
            if not mount.table.steers(part.rows):
                continue
            quick = mount.is_plain(x, part)
            if quick:
                y = edited(x, y, mount.move(part), apart=part.apart)
            if part.clock is not None or not quick:
                own = mount.delta(x, part)
                if quick and part.clock is not None:
                    own = torch.where(part.clock.timed, own, 0.0)
                moved = own if moved is None else moved + own
        if moved is not None:
            y = y.float() + moved
        return x if y is x else settled(x, y, part.keep_norm)
