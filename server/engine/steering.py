"""Steering on its way from a request to the residual stream.

`write` puts a prepared Steering (preparing.py) in a row, and from the next pass on the hook at each
site adds what dictionaries.edits says.

A decoding token is generated, a token of a Span belongs to the prompt: `where` is decided by
absolute position, so a prompt cut into chunks is steered as in one piece. At template and special
tokens nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dictionaries.dictionary import Dictionary, Site

from .batch import Batch
from .checks import check_fit
from .conditions import Condition, Seen
from .hook import SiteHook
from .mount import Mount
from .part import Part, keeping, parted
from .preparing import Prepared, Preparer
from .proof import prove
from .sites import attach, decoder_layers, depth, place, text_config
from .types import Reading
from .value_bias import unseen
from .vector_mounts import VectorMounts
from .watch import NEVER

Noted = list[tuple[Mount, list[tuple[slice, Tensor]]]]
"""What the mounts noted of a pass, to be read later."""


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
        self._rows: list[Prepared | None] = [None] * rows
        self._starts = [0] * rows  # position of the first reply token
        self._parts: list[Part] = []
        self._keep = torch.zeros(rows, 1, 1, dtype=torch.bool, device=device)
        self._mounts: dict[str, Mount] = {}
        self._layers = layers = decoder_layers(model)
        d_model = text_config(model).hidden_size
        sites: dict[Site, list[Mount]] = {}
        for name, dictionary in dictionaries.items():
            check_fit(dictionary.info, layers, d_model)
            left_off = unseen(dictionary.info, layers[dictionary.info.site.layer])
            mount = Mount(dictionary, rows, max_edits, device, left_off)
            self._mounts[name] = mount
            # All dictionaries of a place in one hook: each reads it before any edits it.
            sites.setdefault(place(dictionary.info.site), []).append(mount)
        self._vectors = VectorMounts(
            layers, d_model, rows=rows, width=max_edits, device=device, run=run
        )
        self.no_vectors = self._vectors.refused
        # A copy: other threads read it, while vectors' mounts come to ours between two passes.
        preparer = Preparer({**self._mounts}, self._vectors, max_edits)
        self.prepare, self.prepare_all = preparer.prepare, preparer.prepare_all
        self.check, self.lowered = preparer.check, preparer.lowered
        for site in sites:
            prove(layers[site.layer], site.hook, run)
        self._hooks: dict[Site, SiteHook] = {}
        for site in sorted(sites, key=depth):  # two may share a module, and then run in this order
            self._hook(site, sites[site])

    def _hook(self, site: Site, mounts: Sequence[Mount]) -> None:
        """Add these to what edits at a place."""
        if site not in self._hooks:
            self._hooks[site] = SiteHook(())
            attach(self._layers[site.layer], site.hook, self._hooks[site])
        self._hooks[site].mounts = [*self._hooks[site].mounts, *mounts]

    def write(
        self, row: int, prepared: Prepared | None, start: int = 0, *, anew: bool = True
    ) -> None:
        """Steer a row this way from the next pass on; None makes it neutral.

        start: the position of its first reply token. anew: forget which conditions held; else the
        latches that the row had before and has again go on.
        """
        for mount in self._vectors.arrived():  # here, as no pass is under way
            self._mounts[mount.info.id] = mount
            self._hook(mount.info.site, [mount])
        held = {} if anew else self._held(row)
        self._rows[row], self._starts[row] = prepared, start
        self._keep[row] = prepared is not None and prepared.steering.keep_norm
        edits = () if prepared is None else prepared.steering.edits
        conditions = () if prepared is None else prepared.steering.conditions
        columns = {condition: 1 + slot for slot, condition in enumerate(conditions)}
        for name, mount in self._mounts.items():
            mount.table.write(row, None if prepared is None else prepared.entries.get(name))
            timings = [edit.timing for edit in edits if edit.dictionary == name]
            mount.gates.write(row, timings, columns, start)
            slots = {i: c for i, c in enumerate(conditions) if c.dictionary == name}
            mount.watch.write(row, prepared.watched[name] if prepared and slots else None, slots)
        for slot, condition in enumerate(conditions):
            if condition.latch and condition in held:
                self._mounts[condition.dictionary].watch.since[row, 0, slot] = held[condition]

    def _held(self, row: int) -> dict[Condition, Tensor]:
        """Since when each condition of a row has held."""
        prepared = self._rows[row]
        return {
            condition: self._mounts[condition.dictionary].watch.since[row, 0, slot].clone()
            for slot, condition in enumerate(prepared.steering.conditions if prepared else ())
        }

    def move(self, source: int, target: int) -> None:
        """Steer `target` as `source` is; whoever comes to `source` is written over it."""
        held = self._held(source)
        self.write(target, self._rows[source], self._starts[source])
        for slot, (condition, since) in enumerate(held.items()):
            self._mounts[condition.dictionary].watch.since[target, 0, slot] = since

    def begin(self, batch: Batch, flags: Tensor | None = None) -> None:
        """What comes next is the forward pass of this batch.

        flags: bool [rows, 1, 1], which decoding rows may be steered, where that is on the device.
        """
        for mount in self._mounts.values():
            mount.begin()  # else what a pass that failed left would be the next one's
        self._parts = parted(batch, self._rows, self._keep, flags) if self._hooks else []
        for hook in self._hooks.values():
            hook.parts = self._parts

    def shape(self, batch: Batch) -> tuple[object, ...] | None:
        """What decides which operators steer these decoding rows: two steps of one shape run the
        same on the same tensors, whatever is in them. None where it is decided as they run.
        """
        rows = batch.rows
        if any(row is not None and row.timed for row in self._rows[rows]):
            return None
        mounts = (mount for hook in self._hooks.values() for mount in hook.mounts)
        sizes = {mount.info.id: mount.shape(rows, batch.traced) for mount in mounts}
        if None in sizes.values():
            return None
        acting = (pair for pair in sizes.items() if pair[1])  # idle ones, as they come, are nothing
        return (keeping(self._rows, self._keep, rows) is not None, *acting)

    def noted(self) -> Noted:
        """Of the pass that ran, for `recall`."""
        return [(mount, [*mount.noted]) for mount in self._mounts.values() if mount.noted]

    def recall(self, noted: Noted) -> None:
        """A pass ran that was captured, when this was noted: its tensors hold what is so now."""
        self._parts = []
        for mount in self._mounts.values():
            mount.begin()
        for mount, own in noted:
            mount.begin(own)

    def seen(self) -> dict[int, Seen]:
        """Of the pass that ran, by row; rows whose steering is not timed are left out."""
        found: dict[int, Seen] = {}
        for part in self._parts:
            if part.clock is None:
                continue
            watches = {name: mount.watch for name, mount in self._mounts.items()}
            since = {
                name: watch.since[part.rows, 0].tolist()
                for name, watch in watches.items()
                if watch.watches(part.rows)
            }
            touched = part.clock.touched.sum((1, 2)).tolist()
            for i, row in enumerate(range(part.rows.start, part.rows.stop)):
                prepared = self._rows[row]
                if prepared is not None and prepared.timed:
                    slots = enumerate(prepared.steering.conditions)
                    held = {c: since[c.dictionary][i][slot] for slot, c in slots}
                    end = min((held[c] for c in prepared.steering.aborts), default=NEVER)
                    if end < NEVER:
                        before_end = part.clock.touched[i] & (part.clock.positions[i] <= end)
                        touched[i] = int(before_end.sum())
                    own = tuple(at if at <= end else NEVER for at in held.values())
                    found[row] = Seen(touched[i], own)
        return found

    def observed(self) -> dict[int, Tensor]:
        """Of the pass that ran, by row, what was to be kept: [tokens, d_in]."""
        found: dict[int, Tensor] = {}
        for mount in self._mounts.values():
            found |= mount.observed
        return found

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
