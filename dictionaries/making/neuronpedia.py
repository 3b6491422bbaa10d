"""Neuronpedia's bulk export of one source -> feature cards.

The public bucket `neuronpedia-datasets` has `v1/{modelId}/{sourceId}/` with gzipped JSON lines in
`features/`, `activations/` and `explanations/`. Neuronpedia folds every decoder row to length 1
first (but for TopK and temporal dictionaries), so its activations are |decoder row| times ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..card import Card, Example, Histogram
from ..cards import Cards
from ..cards_schema import utf8
from ..dictionary import Dictionary
from ..errors import DictionaryError
from .imported import (
    AFTER,
    BATCH,
    BEFORE,
    BY_TOKENS,
    EXAMPLES,
    cards_file,
    completed,
    decoder_lengths,
    in_range,
)
from .neuronpedia_rows import Row, read_rows, zipped
from .neuronpedia_source import check_source, folded, read_source
from .token_label import token_label

_KINDS = ("features", "activations", "explanations")
_NUMBER = (int, float)
Advance = Callable[[str, int], None]  # what is read, rows of it so far


@dataclass(frozen=True, slots=True)
class Imported:
    """Rows that were read, and features that now have a written label."""

    rows: int
    labelled: int


def recognise(folder: Path) -> bool:
    return any(next((folder / kind).glob("batch-*.jsonl*"), None) for kind in _KINDS)


def import_export(
    folder: Path,
    dictionary: Dictionary,
    path: Path,
    *,
    by: str | None = None,
    advance: Advance = lambda kind, rows: None,
) -> Imported:
    """Fill the cards file at `path`. What its cards already hold stays; a written label replaces
    one that was made of tokens.

    by: take only explanations whose model or type has this in its name; by default the first of a
    feature. Memory does not grow with the export. Raises DictionaryError for another dictionary's
    export and for rows that are no such rows, naming file and line; the cards are then as they
    were.
    """
    source = read_source(folder)
    check_source(source, dictionary)
    with cards_file(path, dictionary) as cards:
        importer = _Importer(dictionary, cards, by, advance)
        rows = importer.features(read_rows(folder / "features"))
        rows += importer.activations(read_rows(folder / "activations"))
        rows += importer.explanations(read_rows(folder / "explanations"))
        words = (source.get("modelId"), source.get("id"))
        cards.put_meta({"labels": {"from": "neuronpedia", "source": "/".join(map(str, words))}})
        cards.compact()
    return Imported(rows, sum(importer.labelled))


class _Importer:
    """One export into one cards file. Rows come in any order; a feature's may lie apart."""

    def __init__(
        self, dictionary: Dictionary, cards: Cards, by: str | None, advance: Advance
    ) -> None:
        self.dictionary, self.cards, self.by, self.advance = dictionary, cards, by, advance
        self.labelled = bytearray(dictionary.info.d_sae)
        self._shown = bytearray(dictionary.info.d_sae)  # examples are this import's own
        self._units: Tensor | None = None

    def features(self, rows: Iterable[Row]) -> int:
        def change(own: Card | None, row: Row) -> Card:
            return completed(own, self._described(row))

        return self._all("features", rows, change)

    def activations(self, rows: Iterable[Row]) -> int:
        def change(own: Card | None, row: Row) -> Card | None:
            example = self._example(row)
            own = own or Card(row.feature, "", labelled_by=BY_TOKENS)
            if example is None or (own.examples and not self._shown[row.feature]):
                return None
            self._shown[row.feature] = 1
            best = sorted((*own.examples, example), key=lambda e: -max(e.activations))
            own = replace(own, examples=tuple(best[:EXAMPLES]))
            return own if own.labelled_by != BY_TOKENS else replace(own, label=_label(own))

        return self._all("activations", rows, change)

    def explanations(self, rows: Iterable[Row]) -> int:
        def change(own: Card | None, row: Row) -> Card | None:
            writer = str(row.get("explanationModelName") or row.get("typeName") or "neuronpedia")
            label = " ".join(str(row.get("description") or "").split())
            names = f"{row.get('explanationModelName')} {row.get('typeName')}"
            if not label or self.labelled[row.feature] or (self.by and self.by not in names):
                return None
            self.labelled[row.feature] = 1
            if own is not None and own.label and own.labelled_by != BY_TOKENS:
                return None
            return replace(own or Card(row.feature, ""), label=label, labelled_by=writer)

        return self._all("explanations", rows, change)

    def _all(
        self, kind: str, rows: Iterable[Row], change: Callable[[Card | None, Row], Card | None]
    ) -> int:
        """Apply `change` to the card of every row, a batch of rows in one transaction."""
        done = 0
        rows = iter(rows)
        while batch := list(itertools.islice(rows, BATCH)):
            changed: dict[int, Card] = {}
            for row in batch:
                in_range(row.feature, self.dictionary)
                own = changed.get(row.feature) or self.cards.get(row.feature)
                try:
                    card = change(own, row)
                except (DictionaryError, TypeError, ValueError, OverflowError) as error:
                    raise DictionaryError(f"{row.where} is no row of {kind}: {error}") from error
                if card is not None:
                    changed[row.feature] = card
            self.cards.put(changed.values())
            done += len(batch)
            self.advance(kind, done)
        return done

    def _unit(self, feature: int) -> float:
        """Our activation for one of Neuronpedia's."""
        if self._units is None:
            scaled = folded(self.dictionary.info)
            lengths = decoder_lengths(self.dictionary) if scaled else None
            self._units = torch.ones(len(self._shown)) if lengths is None else 1 / lengths
        return float(self._units[feature])

    def _described(self, row: Row) -> Card:
        unit = self._unit(row.feature)
        largest = row.get("maxActApprox")
        promoted = tuple(_pairs(row, "pos_str", "pos_values"))
        card = Card(
            row.feature,
            "",
            density=row.get("frac_nonzero"),
            maximum=_short(largest * unit) if largest else None,
            histogram=_histogram(row, unit),
            promoted=promoted,
            suppressed=tuple(_pairs(row, "neg_str", "neg_values")),
            neighbours=tuple(
                (int(i), float(cosine))
                for i, cosine in zipped(row, "topkCosSimIndices", "topkCosSimValues")
                if int(i) != row.feature
            ),
            labelled_by=BY_TOKENS,
        )
        return replace(card, label=_label(card))

    def _example(self, row: Row) -> Example | None:
        """The stretch around the largest activation; None for a text on which nothing fires."""
        pairs = [(utf8(str(t)), float(v)) for t, v in zipped(row, "tokens", "values")]
        if not pairs or max(v for _, v in pairs) <= 0:
            return None
        peak = max(range(len(pairs)), key=lambda i: pairs[i][1])
        pairs = pairs[max(0, peak - BEFORE) : peak + AFTER]
        unit = self._unit(row.feature)
        low, high = row.get("binMin"), row.get("binMax")
        interval = None
        if isinstance(low, _NUMBER) and isinstance(high, _NUMBER) and high > low:
            interval = _short(low * unit), _short(high * unit)
        return Example(
            tuple(t for t, _ in pairs),
            tuple(_short(v * unit) for _, v in pairs),
            interval,
        )


def _pairs(row: Row, words: str, values: str) -> Iterator[tuple[str, float]]:
    for word, value in zipped(row, words, values):
        yield utf8(str(word)), _short(float(value))


def _histogram(row: Row, unit: float) -> Histogram | None:
    """Its bars are named by their middles; edges lie half a bar to either side."""
    bars = zipped(row, "freq_hist_data_bar_values", "freq_hist_data_bar_heights")
    if len(bars) < 2:
        return None
    half = (bars[1][0] - bars[0][0]) / 2
    edges = [bars[0][0] - half, *(middle + half for middle, _ in bars)]
    counts = tuple(round(height) for _, height in bars)
    return Histogram(tuple(_short(max(edge, 0.0) * unit) for edge in edges), counts)


def _label(card: Card) -> str:
    peaks = [
        e.tokens[: max(range(len(e.tokens)), key=lambda i: e.activations[i]) + 1]
        for e in card.examples
    ]
    promoted = [token for token, _ in card.promoted]
    return token_label(peaks, promoted) if peaks or promoted else ""


def _short(value: float) -> float:
    """Five digits that count: a card is for reading."""
    return float(f"{value:.5g}")
