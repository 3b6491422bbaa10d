"""One dictionary at its site: its tables, and the arithmetic of its edits on the residual there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from dictionaries.dictionary import Dictionary
from dictionaries.edits import FeatureRows, Frame, Norm, delta, edited, faded, frame, read

from .gates import Gates, Opening
from .native.build import able
from .native.edits import Move, move
from .part import Part, by_token
from .tables import Entries, Table, View, entries
from .types import FeatureEdit
from .watch import Watch, cutoffs

_REMEMBERED = 64  # sets of features whose rows are held ready


class Mount:
    """unseen: what the dictionary's training left off the vectors of its site (value_bias.py)."""

    def __init__(
        self,
        dictionary: Dictionary,
        rows: int,
        width: int,
        device: torch.device,
        unseen: Tensor | None = None,
    ) -> None:
        self.dictionary = dictionary
        self.info = dictionary.info
        self.table = Table(rows, width, self.info.width, device, reads=self.info.reads_exactly)
        self.gates = Gates(rows, width, device)
        self.watch = Watch(dictionary, rows, device)
        # Of the pass, where traced: some rows, and their entries' activations before and after the
        # edits at the last token, [2, rows, k], read off the device when they are asked for.
        self.noted: list[tuple[slice, Tensor]] = []
        self._readings: dict[int, tuple[list[float], list[float]]] = {}
        self.observed: dict[int, Tensor] = {}  # row -> its chunk [tokens, d_in], where wanted
        self._device = device
        self._unseen = unseen
        usual = self.info.norm is Norm.NONE and self.info.k is None and unseen is None
        # Where features read x as it is, and fire above a threshold that is known.
        self.plain = usual and device.type == "cpu" and able()
        # A slider's changes edit the same features again and again: they share the rows.
        self._features = lru_cache(_REMEMBERED)(lambda features: dictionary.rows(list(features)))

    def prepare(self, edits: Sequence[FeatureEdit]) -> Entries:
        """The rows of the edited features, read from disk: from any thread, not from a step's.

        The first reading of a TopK dictionary loads its encoder. Raises DictionaryError.
        """
        made = entries(self._features(tuple(edit.feature for edit in edits)), edits)
        topk = self.info.k is not None and self.info.reads_exactly
        if topk and (made.reads or self.dictionary.can_keep_encoder(self._device)):
            self.dictionary.keep_encoder(self._device)
        return made

    def watched(self, features: Sequence[int]) -> FeatureRows:
        """The rows of features that conditions read; from where `prepare` may be called."""
        if self.info.k is not None:
            self.dictionary.keep_encoder(self._device)
        return self.dictionary.rows(features)

    @property
    def reads(self) -> bool:
        """Whether an activation can be read within a step; add-only edits make do without."""
        fits = self.info.k is None or self.dictionary.can_keep_encoder(self._device)
        return self.info.reads_exactly and fits

    @property
    def busy(self) -> bool:
        """Whether any row edits or watches a feature here."""
        return self.table.width > 0 or self.watch.busy

    def acts(self, rows: slice) -> bool:
        """Whether any of these does."""
        return self.table.steers(rows) or self.watch.watches(rows)

    def is_plain(self, x: Tensor, part: Part) -> bool:
        """Whether our own code edits those rows of a part whose edits always act."""
        return self.plain and x.dtype == torch.float32 and (part.clock is None or part.apart)

    def move(self, part: Part) -> Move:
        """What edits of a part's rows do that always act, as `delta` has it."""
        acts = part.steerable
        if part.clock is not None:
            acts = ~part.clock.timed if acts is None else acts & ~part.clock.timed
        view = self.table.view(part.rows, part.phase)
        made, noted = move(view, acts, traced=part.traced)
        if noted is not None:
            self.noted.append((part.rows, noted))
        return made

    @property
    def readings(self) -> dict[int, tuple[list[float], list[float]]]:
        """Row -> (before, after) of its entries at the last token of the pass; only when traced."""
        for rows, both in self.noted:
            befores, afters = both.tolist()
            for i, row in enumerate(range(rows.start, rows.stop)):
                self._readings[row] = befores[i], afters[i]
        self.noted = []
        return self._readings

    def begin(self, noted: Sequence[tuple[slice, Tensor]] = ()) -> None:
        """A pass comes, or has been replayed, which noted this: what another left is forgotten."""
        self.observed, self._readings, self.noted = {}, {}, [*noted]

    def shape(self, rows: slice, traced: bool) -> int | None:
        """How many entries a pass over decoding rows computes with, 0 where it computes nothing.

        None where that does not say all: of a TopK dictionary, whose rows read is chosen anew.
        """
        if not self.table.steers(rows):
            return 0
        if self.info.k is not None and self.reads:
            steered = (entry for entry in self.table.rows[rows] if entry is not None)
            if traced or any(entry.reads for entry in steered):
                return None
        return self.table.width

    def look(self, x: Tensor, part: Part) -> None:
        """See which conditions hold at the tokens of a part. x: [rows, tokens, d], unedited."""
        self.watch.look(self._frame(x).h, part)

    def observe(self, x: Tensor, part: Part) -> None:
        """Keep what the dictionary is given to read of a chunk. x: [tokens, d_in], unedited."""
        self.observed[part.rows.start] = self._own(x).float().cpu()

    def _own(self, x: Tensor) -> Tensor:
        """What the dictionary was trained to see of x."""
        return x if self._unseen is None else x.float() - self._unseen

    def _frame(self, x: Tensor) -> Frame:
        return frame(self._own(x), self.info.norm)

    def delta(self, x: Tensor, part: Part) -> Tensor:
        """What the edits of a part's rows add to x [rows, tokens, d]; float32."""
        view = self.table.view(part.rows, part.phase)
        h, back = self._frame(x)
        f = self._activations(h, view, part)
        opening = self._opening(view, part)
        # What only adds moves by its shift whatever f is; from 0 it does so without rounding.
        before = f.masked_fill(view.adds, 0.0)
        if part.traced:
            self._note(f, _changed(f, view, opening, part.steerable), part.rows)
        after = _changed(before, view, opening, part.steerable)
        rows = view.features
        return by_token(lambda f, to, back: delta(f, to, rows, back), before, after, back)

    def _activations(self, h: Tensor, view: View, part: Part) -> Tensor:
        """[rows, tokens, k]; 0 of a dictionary that reads none: what only adds needs none."""
        if not self.info.reads_exactly:
            return h.new_zeros(*h.shape[:-1], self.table.width)
        cutoff = self._cutoff(h, part)
        return by_token(lambda h, cutoff: read(h, view.features, cutoff), h, cutoff)

    def _opening(self, view: View, part: Part) -> Opening | None:
        """Where the edits act, None for everywhere; noted in the part's clock."""
        if part.clock is None:
            return None
        if self.gates.timed(part.rows):
            opening = self.gates.opening(part.rows, self.table.width, part.clock)
            acts = opening.acts & view.acts
        else:
            opening, acts = None, view.acts
        touched = acts.any(-1, keepdim=True)
        part.clock.touched.logical_or_(
            touched if part.steerable is None else touched & part.steerable
        )
        return opening

    def _cutoff(self, h: Tensor, part: Part) -> Tensor | None:
        """Only of rows that read an activation."""
        steered = self.table.rows[part.rows]
        reading = (i for i, e in enumerate(steered) if e is not None and (part.traced or e.reads))
        return cutoffs(self.dictionary, h, reading if self.reads else ())

    def _note(self, before: Tensor, after: Tensor, rows: slice) -> None:
        self.noted.append((rows, torch.stack([before[:, -1], after[:, -1]])))


def _changed(
    before: Tensor, view: View, opening: Opening | None, steerable: Tensor | None
) -> Tensor:
    """The activations [rows, tokens, k] after the edits that act."""
    after = edited(before, view.edits)
    if opening is not None:
        if opening.weight is not None:
            after = faded(before, after, opening.weight)
        after = torch.where(opening.acts, after, before)
    return after if steerable is None else torch.where(steerable, after, before)
