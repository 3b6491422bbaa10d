"""Steering on its way from a request to the residual stream.

`prepare` turns a Steering into entries for the tables, and refuses what cannot be applied exactly
as asked; `write` puts them in a row. At every site one hook adds what dictionaries.edits says for
all the dictionaries there, each reading its activations from the unedited x.

A decoding token is generated, a token of a Span belongs to the prompt: `where` is decided by
absolute position, so a prompt cut into chunks is steered as in one piece. At template and special
tokens nothing moves. Where no row is steered the hook does nothing: it would add exact zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dictionaries.dictionary import Dictionary, Info, Site
from dictionaries.edits import shifted
from dictionaries.errors import DictionaryError

from ..errors import Unsteerable
from .batch import Batch
from .bench import Bench
from .sites import attach, decoder_layers, heads_width, text_config
from .tables import Entries, Phase, entries, only_adds
from .types import FeatureEdit, Reading, Steering, Where


@dataclass(frozen=True, slots=True)
class Prepared:
    """A Steering ready to be written to a row; `acts` says whether any edit acts in each phase."""

    steering: Steering
    entries: Mapping[str, Entries]  # by dictionary, its edits in the order of `steering`
    acts: tuple[bool, bool]


class Steerer:
    """All dictionaries of one model. Raises Unsteerable for one that does not fit the model."""

    def __init__(
        self,
        model: nn.Module,
        dictionaries: Mapping[str, Dictionary],
        *,
        rows: int,
        max_edits: int,
        device: torch.device,
    ) -> None:
        self.max_edits = max_edits
        self._device = device
        self._benches: dict[str, Bench] = {}
        self._rows: list[Prepared | None] = [None] * rows
        self._keep = torch.zeros(rows, 1, 1, dtype=torch.bool, device=device)
        self._batch: Batch | None = None
        self._steerable: list[Tensor | None] = []
        layers, d_model = decoder_layers(model), text_config(model).hidden_size
        sites: dict[Site, list[Bench]] = {}
        for name, dictionary in dictionaries.items():
            _check_fit(dictionary.info, layers, d_model)
            bench = self._benches[name] = Bench(dictionary, rows, max_edits, device)
            sites.setdefault(dictionary.info.site, []).append(bench)
        for site, benches in sites.items():
            attach(layers[site.layer], site.hook, _Hook(self, benches))

    def prepare(self, steering: Steering) -> Prepared:
        """Read the rows of the edited features. From any thread; raises Unsteerable."""
        self._check(steering)
        by_dictionary: dict[str, list[FeatureEdit]] = {}
        for edit in steering.edits:
            by_dictionary.setdefault(edit.dictionary, []).append(edit)
        prepared: dict[str, Entries] = {}
        for name, edits in by_dictionary.items():
            try:
                rows = self._benches[name].dictionary.rows([edit.feature for edit in edits])
            except DictionaryError as error:
                raise Unsteerable(f"Dictionary {name!r}: {error}", param="steering") from error
            prepared[name] = entries(rows, edits)
        places = {edit.where for edit in steering.edits}
        acts = places & {Where.ALL, Where.PROMPT}, places & {Where.ALL, Where.GENERATED}
        return Prepared(steering, prepared, (bool(acts[0]), bool(acts[1])))

    def _check(self, steering: Steering) -> None:
        if len(steering.edits) > self.max_edits:
            raise Unsteerable(
                f"{len(steering.edits)} edits came; one reply may have {self.max_edits}.",
                param="steering.edits",
            )
        seen: set[tuple[str, int, Where]] = set()
        for edit in steering.edits:
            self._check_edit(edit)
            places = (Where.PROMPT, Where.GENERATED) if edit.where is Where.ALL else (edit.where,)
            for place in places:
                key = (edit.dictionary, edit.feature, place)
                if key in seen:
                    raise Unsteerable(
                        f"Feature {edit.dictionary}/{edit.feature} is edited twice on the same "
                        "tokens: keep one of the edits, or give them different `where`.",
                        param="steering.edits",
                    )
                seen.add(key)

    def _check_edit(self, edit: FeatureEdit) -> None:
        bench = self._benches.get(edit.dictionary)
        if bench is None:
            known = ", ".join(self._benches) or "none"
            raise Unsteerable(
                f"Dictionary {edit.dictionary!r} is not loaded; loaded: {known}.",
                param="steering.edits",
            )
        name = f"feature {edit.feature} of {edit.dictionary!r}"
        info = bench.info
        if not 0 <= edit.feature < info.d_sae:
            raise Unsteerable(
                f"There is no {name}: it has features 0 to {info.d_sae - 1}.",
                param="steering.edits",
            )
        numbers = edit.edit
        if any(map(math.isnan, numbers)) or any(map(math.isinf, numbers[:2])):
            raise Unsteerable(
                f"The edit of {name} is not finite: scale {numbers.scale}, shift {numbers.shift}.",
                param="steering.edits",
            )
        if not info.reads_exactly and not only_adds(numbers):
            raise Unsteerable(
                f"{edit.op.value!r} needs the activation of {name}, which cannot be read exactly: "
                f"{info.why_not} Use `add`.",
                param="steering.edits",
            )

    def write(self, row: int, prepared: Prepared | None) -> None:
        """Steer a row this way from the next pass on; None makes it neutral."""
        self._rows[row] = prepared
        self._keep[row] = prepared is not None and prepared.steering.keep_norm
        for name, bench in self._benches.items():
            bench.table.write(row, None if prepared is None else prepared.entries.get(name))

    def move(self, source: int, target: int) -> None:
        self.write(target, self._rows[source])
        self.write(source, None)

    def begin(self, batch: Batch) -> None:
        """What comes next is the forward pass of this batch."""
        self._batch = batch
        self._steerable = [self._flags(batch.steerable, (-1, 1, 1))]
        self._steerable += [self._flags(span.steerable, (1, -1, 1)) for span in batch.spans]
        for bench in self._benches.values():
            bench.readings.clear()

    def _flags(self, flags: Sequence[bool], shape: tuple[int, int, int]) -> Tensor | None:
        return None if all(flags) else torch.tensor(flags, device=self._device).view(shape)

    def readings(self, row: int) -> tuple[Reading, ...]:
        """What the edits of a row saw and made of it at the last token of a traced pass."""
        prepared = self._rows[row]
        if prepared is None:
            return ()
        at = dict.fromkeys(prepared.entries, -1)
        found = []
        for edit in prepared.steering.edits:
            at[edit.dictionary] += 1
            bench = self._benches[edit.dictionary]
            if bench.info.reads_exactly and row in bench.readings:
                before, after = bench.readings[row]
                i = at[edit.dictionary]
                found.append(Reading(edit.dictionary, edit.feature, before[i], after[i]))
        return tuple(found)

    def edit(self, x: Tensor, benches: Sequence[Bench]) -> Tensor:
        """x [1, tokens, d] at one site, edited: decoding rows together, each span on its own."""
        batch = self._batch
        assert batch is not None
        count, offsets = len(batch.tokens), batch.offsets()
        parts = []
        if count:
            part = x[0, :count, None]
            part = self._rowwise(part, batch.rows, Phase.GENERATED, self._steerable[0], benches)
            parts.append(part[None, :, 0])
        for number, span in enumerate(batch.spans):
            part = x[:, offsets[number] : offsets[number + 1]]
            row, flags = slice(span.row, span.row + 1), self._steerable[number + 1]
            parts.append(self._rowwise(part, row, Phase.PROMPT, flags, benches))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _rowwise(
        self,
        x: Tensor,
        rows: slice,
        phase: Phase,
        steerable: Tensor | None,
        benches: Sequence[Bench],
    ) -> Tensor:
        assert self._batch is not None
        traced = self._batch.traced
        moved: Tensor | None = None
        for bench in benches:
            if bench.table.steers(rows):
                own = bench.delta(x, rows, phase, steerable, traced)
                moved = own if moved is None else moved + own
        if moved is None:
            return x
        keeps = any(row is not None and row.steering.keep_norm for row in self._rows[rows])
        return shifted(x, moved, self._keep[rows] if keeps else None)


def _check_fit(info: Info, layers: Sequence[nn.Module], d_model: int) -> None:
    try:
        info.fits(len(layers), d_model)
    except DictionaryError as error:
        raise Unsteerable(f"{str(error)[:1].upper()}{str(error)[1:]}") from error
    if info.site.hook == "hook_z":
        width = heads_width(layers[info.site.layer])
        if info.d_in != width:
            raise Unsteerable(
                f"Dictionary {info.id!r} at hook_z reads vectors of {info.d_in} numbers, but the "
                f"heads of this model are {width} wide together: it was made for another model."
            )


class _Hook:
    """The function at one site."""

    def __init__(self, steerer: Steerer, benches: Sequence[Bench]) -> None:
        self.steerer = steerer
        self.benches = benches

    def __call__(self, x: Tensor) -> Tensor:
        if any(bench.table.width for bench in self.benches):
            return self.steerer.edit(x, self.benches)
        return x
