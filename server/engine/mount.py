"""One dictionary at its site: its table, and the arithmetic of its edits on the residual there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dictionaries.dictionary import Dictionary
from dictionaries.edits import delta, edited, frame, read

from .tables import Entries, Phase, Table, View, entries
from .types import FeatureEdit


class Mount:
    def __init__(self, dictionary: Dictionary, rows: int, width: int, device: torch.device) -> None:
        self.dictionary = dictionary
        self.info = dictionary.info
        self.table = Table(rows, width, self.info.d_in, device)
        # row -> (before, after) of its entries at the last token of the pass; only when traced
        self.readings: dict[int, tuple[list[float], list[float]]] = {}
        self._device = device

    def prepare(self, edits: Sequence[FeatureEdit]) -> Entries:
        """The rows of the edited features, read from disk: from any thread, not from a step's.

        The first reading of a TopK dictionary loads its encoder. Raises DictionaryError.
        """
        made = entries(self.dictionary.rows([edit.feature for edit in edits]), edits)
        topk = self.info.k is not None and self.info.reads_exactly
        if topk and (made.reads or self.dictionary.can_keep_encoder(self._device)):
            self.dictionary.keep_encoder(self._device)
        return made

    @property
    def reads(self) -> bool:
        """Whether an activation can be read within a step; add-only edits make do without."""
        fits = self.info.k is None or self.dictionary.can_keep_encoder(self._device)
        return self.info.reads_exactly and fits

    def delta(
        self, x: Tensor, rows: slice, phase: Phase, steerable: Tensor | None, traced: bool
    ) -> Tensor:
        """What the edits of these rows add to x [rows, tokens, d]; float32.

        steerable: bool [rows, tokens, 1], None for all.
        """
        view = self.table.view(rows, phase)
        h, back = frame(x, self.info.norm)
        f = read(h, view.features, self._cutoff(h, rows, traced))
        # What only adds moves by its shift whatever f is; from 0 it does so without rounding.
        before = f.masked_fill(view.adds, 0.0)
        after = edited(before, view.edits)
        if steerable is not None:
            after = torch.where(steerable, after, before)
        if traced:
            self._note(f, view, rows, steerable)
        return delta(before, after, view.features, back)

    def _cutoff(self, h: Tensor, rows: slice, traced: bool) -> Tensor | None:
        """TopK: each token's own threshold, found only for rows that read an activation."""
        if self.info.k is None:
            return None
        steered = self.table.rows[rows]
        reading = [i for i, e in enumerate(steered) if e is not None and (traced or e.reads)]
        cutoff = torch.full_like(h[..., :1], torch.inf)
        if reading and self.reads:
            found = self.dictionary.cutoff(h[reading])
            assert found is not None
            cutoff[reading] = found
        return cutoff

    def _note(self, f: Tensor, view: View, rows: slice, steerable: Tensor | None) -> None:
        after = edited(f, view.edits)
        if steerable is not None:
            after = torch.where(steerable, after, f)
        befores, afters = f[:, -1].tolist(), after[:, -1].tolist()
        for i, row in enumerate(range(rows.start, rows.stop)):
            self.readings[row] = befores[i], afters[i]
