"""Where vectors that come with requests are added: a mount for each place, made when one comes.

A place once used keeps its hook and its table, of a row and an edit d_model floats; the vectors go
with their replies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from dictionaries.dictionary import Dictionary, Info, Site

from ..errors import Unsteerable
from .checks import check_fit
from .mount import Mount
from .proof import prove
from .sites import place
from .tables import Entries, entries
from .types import FeatureEdit
from .vectors import HOOKS, Vector, info_of, mounted, rows_of


class _Place(Dictionary):
    """No features of its own: an edit there brings its row."""

    def __init__(self, info: Info) -> None:
        self.info, self.path = info, Path()


class VectorMount(Mount):
    def prepare(self, edits: Sequence[FeatureEdit]) -> Entries:
        vectors = [edit.vector for edit in edits if edit.vector is not None]
        return entries(rows_of(vectors), edits)


class VectorMounts:
    """refused: a sentence, where this model has no residual stream that a vector can be added to.

    run: one forward pass of a few tokens, which shows that.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        d_model: int,
        *,
        rows: int,
        width: int,
        device: torch.device,
        run: Callable[[], object],
    ) -> None:
        self._layers, self._d_model = layers, d_model
        self._rows, self._width, self._device = rows, width, device
        self._lock = threading.Lock()
        self._made: dict[Site, Mount] = {}
        self._new: list[Mount] = []
        self.refused = ""
        try:
            prove(layers[0], "resid_post", run)
        except Unsteerable as error:
            self.refused = str(error)

    def check(self, vector: Vector) -> None:
        """Raise Unsteerable for one that cannot be added to this model."""
        if self.refused:
            raise Unsteerable(self.refused, param="steering.vectors")
        if vector.site.hook not in HOOKS:
            raise Unsteerable(
                f"{vector.ref} is to be added at {vector.site}; vectors are added at "
                f"{' or '.join(HOOKS)}.",
                param="steering.vectors",
            )
        check_fit(info_of(vector), self._layers, self._d_model)

    def of(self, vector: Vector) -> Mount:
        """The mount of its place, from any thread. Raises Unsteerable where there is no room."""
        at = place(vector.site)
        with self._lock:
            if at not in self._made:
                info = replace(info_of(vector), id=mounted(at), site=at)
                try:
                    made = VectorMount(_Place(info), self._rows, self._width, self._device)
                except torch.OutOfMemoryError as error:
                    raise Unsteerable(
                        f"{self._device} has no memory left for vectors at {vector.site}: use a "
                        "site where some were added before, or start with fewer --max-rows.",
                        param="steering.vectors",
                    ) from error
                self._made[at] = made
                self._new.append(made)
            return self._made[at]

    def arrived(self) -> list[Mount]:
        """Those made since this was last asked."""
        with self._lock:
            new, self._new = self._new, []
        return new
