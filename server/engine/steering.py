"""Steering on its way from a request to the residual stream.

`prepare` turns a Steering into entries for the tables, `write` puts them in a row, and from the
next pass on the hook at each site adds what dictionaries.edits says.

A decoding token is generated, a token of a Span belongs to the prompt: `where` is decided by
absolute position, so a prompt cut into chunks is steered as in one piece. At template and special
tokens nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from dictionaries.dictionary import Dictionary, Site
from dictionaries.errors import DictionaryError

from ..errors import Unsteerable
from .batch import Batch
from .checks import check_fit, check_steering
from .hook import Part, SiteHook
from .mount import Mount
from .proof import prove
from .sites import attach, decoder_layers, text_config
from .tables import Entries, Phase
from .types import FeatureEdit, Reading, Steering, Where

_REMEMBERED = 64  # steerings whose rows are held ready


@dataclass(frozen=True, slots=True)
class Prepared:
    """A Steering ready to be written to a row; `acts` says whether any edit acts in each phase."""

    steering: Steering
    entries: Mapping[str, Entries]  # by dictionary, its edits in the order of `steering`
    acts: tuple[bool, bool]


class Steerer:
    """All dictionaries of one model. Raises Unsteerable for one that does not fit the model.

    run: one forward pass of a few tokens, by which the sites are proved.
    """

    def __init__(
        self,
        model: nn.Module,
        dictionaries: Mapping[str, Dictionary],
        *,
        rows: int,
        max_edits: int,
        device: torch.device,
        run: Callable[[], object],
    ) -> None:
        self.max_edits = max_edits
        self._device = device
        # A request is checked aside and submitted on the loop, and presets come again and again.
        self.prepare = lru_cache(_REMEMBERED)(self._prepare)
        self._rows: list[Prepared | None] = [None] * rows
        self._keep = torch.zeros(rows, 1, 1, dtype=torch.bool, device=device)
        self._mounts: dict[str, Mount] = {}
        layers, d_model = decoder_layers(model), text_config(model).hidden_size
        sites: dict[Site, list[Mount]] = {}
        for name, dictionary in dictionaries.items():
            check_fit(dictionary.info, layers, d_model)
            mount = self._mounts[name] = Mount(dictionary, rows, max_edits, device)
            sites.setdefault(dictionary.info.site, []).append(mount)
        self._hooks = [SiteHook(mounts) for mounts in sites.values()]
        for site in sites:
            prove(layers[site.layer], site.hook, run)
        for site, hook in zip(sites, self._hooks, strict=True):
            attach(layers[site.layer], site.hook, hook)

    def _prepare(self, steering: Steering) -> Prepared:
        """Read the rows of the edited features. From any thread; raises Unsteerable.

        `prepare` is this, remembered for the last steerings.
        """
        loaded = {name: mount.info for name, mount in self._mounts.items()}
        check_steering(steering, loaded, self.max_edits)
        by_dictionary: dict[str, list[FeatureEdit]] = {}
        for edit in steering.edits:
            by_dictionary.setdefault(edit.dictionary, []).append(edit)
        prepared: dict[str, Entries] = {}
        for name, edits in by_dictionary.items():
            try:
                prepared[name] = self._mounts[name].prepare(edits)
            except DictionaryError as error:
                raise Unsteerable(f"Dictionary {name!r}: {error}", param="steering") from error
        places = {edit.where for edit in steering.edits}
        acts = places & {Where.ALL, Where.PROMPT}, places & {Where.ALL, Where.GENERATED}
        return Prepared(steering, prepared, (bool(acts[0]), bool(acts[1])))

    def write(self, row: int, prepared: Prepared | None) -> None:
        """Steer a row this way from the next pass on; None makes it neutral."""
        self._rows[row] = prepared
        self._keep[row] = prepared is not None and prepared.steering.keep_norm
        for name, mount in self._mounts.items():
            mount.table.write(row, None if prepared is None else prepared.entries.get(name))

    def move(self, source: int, target: int) -> None:
        """Steer `target` as `source` is; whoever comes to `source` is written over it."""
        self.write(target, self._rows[source])

    def begin(self, batch: Batch) -> None:
        """What comes next is the forward pass of this batch."""
        parts = self._parts(batch) if self._hooks else []
        for hook in self._hooks:
            hook.parts = parts

    def _parts(self, batch: Batch) -> list[Part]:
        count, offsets = len(batch.tokens), batch.offsets()
        parts = []
        if count:
            flags = self._flags(batch.steerable, (count, 1, 1))
            rows = batch.rows
            own = slice(0, count), rows, Phase.GENERATED, flags, self._keeping(rows)
            parts.append(Part(*own, batch.traced))
        for number, span in enumerate(batch.spans):
            flags = self._flags(span.steerable, (1, len(span.tokens), 1))
            tokens, rows = slice(*offsets[number : number + 2]), slice(span.row, span.row + 1)
            own = tokens, rows, Phase.PROMPT, flags, self._keeping(rows)
            parts.append(Part(*own, batch.traced))
        return parts

    def _flags(self, flags: Sequence[bool], shape: tuple[int, int, int]) -> Tensor | None:
        return None if all(flags) else torch.tensor(flags, device=self._device).view(shape)

    def _keeping(self, rows: slice) -> Tensor | None:
        keeps = any(row is not None and row.steering.keep_norm for row in self._rows[rows])
        return self._keep[rows] if keeps else None

    def readings(self, row: int) -> tuple[Reading, ...]:
        """What the edits of a row saw and made of it at the last token of a traced pass."""
        prepared = self._rows[row]
        if prepared is None:
            return ()
        at = dict.fromkeys(prepared.entries, -1)
        found = []
        for edit in prepared.steering.edits:
            at[edit.dictionary] += 1
            mount = self._mounts[edit.dictionary]
            if mount.reads and row in mount.readings:
                before, after = mount.readings[row]
                i = at[edit.dictionary]
                found.append(Reading(edit.dictionary, edit.feature, before[i], after[i]))
        return tuple(found)
