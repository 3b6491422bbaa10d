"""Gemma Scope 2's `examples.safetensors` -> feature cards.

Beside the weights of every dictionary lie, as token ids, the texts on which each feature is most
active and the tokens that it promotes: [d_sae, 10] top and bottom tokens with logits, [d_sae, m]
activations with seq_ids and positions, [d_sae] frequencies, and [texts, length] tokens. A feature's
evidence is a handful of contiguous rows. There are no labels: they are made of the tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..card import Card, Example
from ..containers import open_tensors
from ..dictionary import Dictionary
from ..errors import DictionaryError
from ..tensors import Stored
from .imported import AFTER, BATCH, BEFORE, BY_TOKENS, EXAMPLES, cards_file, completed
from .token_label import token_label

_MATRICES = (
    "top_tokens",
    "top_logits",
    "bottom_tokens",
    "bottom_logits",
    "activations",
    "seq_ids",
    "positions",
)
_EXACT = 2**24  # whole numbers that float32 holds


class _Block(NamedTuple):
    """Rows of neighbouring features, in the order of _MATRICES, and their frequencies."""

    top: Tensor
    top_logits: Tensor
    bottom: Tensor
    bottom_logits: Tensor
    activations: Tensor
    texts: Tensor
    positions: Tensor
    frequencies: Tensor


def recognise(path: Path) -> bool:
    return path.name == "examples.safetensors" and path.is_file()


def import_examples(
    source: Path,
    dictionary: Dictionary,
    path: Path,
    text_of: Callable[[int], str],
    *,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Fill the cards file at `path` and say how many features have a card now.

    text_of: a token's text, of the dictionary's model. What cards already hold stays. Memory does
    not grow with the file. Raises DictionaryError for a file that is not of this dictionary.
    """
    stored = open_tensors(source)
    _check(stored, source, dictionary)
    made, d_sae = 0, dictionary.info.d_sae
    with cards_file(path, dictionary) as cards:
        for start in range(0, d_sae, BATCH):
            stop = min(start + BATCH, d_sae)
            rows = [stored[name].block(0, start, stop) for name in _MATRICES]
            block = _Block._make([*rows, stored["feature_frequencies"].span(start, stop)])
            found = [
                _card(start + i, _Block._make(part[i] for part in block), stored["tokens"], text_of)
                for i in range(stop - start)
                if block.activations[i].max() > 0
            ]
            cards.put([completed(cards.get(card.feature), card) for card in found])
            made += len(found)
            advance(stop, d_sae)
        cards.put_meta({"labels": {"from": "examples.safetensors"}})
        cards.compact()
    return made


def _check(stored: dict[str, Stored], source: Path, dictionary: Dictionary) -> None:
    d_sae = dictionary.info.d_sae
    lacking = [n for n in (*_MATRICES, "feature_frequencies", "tokens") if n not in stored]
    if lacking:
        raise DictionaryError(
            f"{source} lacks {', '.join(lacking)}: it is no examples file of Gemma Scope 2."
        )
    shapes = {name: stored[name].shape for name in _MATRICES}
    firsts = {shape[0] for shape in shapes.values()} | {stored["feature_frequencies"].shape[0]}
    if firsts != {d_sae} or any(len(shape) != 2 for shape in shapes.values()):
        raise DictionaryError(
            f"{source} has examples of {sorted(firsts)} features, but {dictionary.info.id!r} has "
            f"{d_sae}: it belongs to another dictionary."
        )
    same = {shapes[name] for name in ("activations", "seq_ids", "positions")}
    if len(same) != 1 or len(stored["tokens"].shape) != 2 or stored["tokens"].shape[0] > _EXACT:
        raise DictionaryError(
            f"{source} contradicts itself: activations, seq_ids and positions have shapes "
            f"{sorted(map(list, same))}, tokens {list(stored['tokens'].shape)}."
        )


def _card(feature: int, row: _Block, tokens: Stored, text_of: Callable[[int], str]) -> Card:
    promoted = _named(row.top, row.top_logits, text_of)
    examples, peaks = _examples(feature, row, tokens, text_of)
    return Card(
        feature,
        token_label(peaks, [token for token, _ in promoted]),
        density=min(max(float(row.frequencies), 0.0), 1.0),
        maximum=_short(float(row.activations.max())),
        promoted=promoted,
        suppressed=_named(row.bottom, row.bottom_logits, text_of),
        examples=tuple(examples),
        labelled_by=BY_TOKENS,
    )


def _named(
    ids: Tensor, logits: Tensor, text_of: Callable[[int], str]
) -> tuple[tuple[str, float], ...]:
    pairs = zip(ids.tolist(), logits.tolist(), strict=True)
    return tuple((text_of(int(id)), _short(logit)) for id, logit in pairs)


def _examples(
    feature: int, row: _Block, tokens: Stored, text_of: Callable[[int], str]
) -> tuple[list[Example], list[list[str]]]:
    """(the strongest texts, each once; the tokens of each up to its peak)."""
    found: dict[int, dict[int, float]] = {}  # text -> position -> activation, strongest first
    order = row.activations.argsort(descending=True)
    for at in order[row.activations[order] > 0].tolist():
        marks = found.setdefault(int(row.texts[at]), {})
        marks.setdefault(int(row.positions[at]), float(row.activations[at]))
    texts = list(found)[:EXAMPLES]
    count, length = tokens.shape
    wrong = [t for t in texts if not 0 <= t < count or not all(0 <= p < length for p in found[t])]
    if wrong:
        raise DictionaryError(
            f"the examples of feature {feature} point at text {wrong[0]}, outside of the "
            f"{count} x {length} tokens there are. Download the file again."
        )
    examples, peaks = [], []
    for text, ids in zip(texts, tokens.gather(0, texts).to(torch.int64).tolist(), strict=True):
        marks = found[text]
        peak = next(iter(marks))
        start, stop = max(0, peak - BEFORE), min(length, peak + AFTER)
        words = [text_of(int(id)) for id in ids[start:stop]]
        values = tuple(_short(marks.get(at, 0.0)) for at in range(start, stop))
        examples.append(Example(tuple(words), values))
        peaks.append(words[: peak - start + 1])
    return examples, peaks


def _short(value: float) -> float:
    """Five digits that count: a card is for reading."""
    return float(f"{value:.5g}")
