"""From what was counted to cards: what each live feature says, whom it resembles, its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..card import Card, Example
from ..cards import Cards
from ..dictionary import Dictionary
from ..scan import nearest
from .exemplars import Exemplar
from .output_score import PROMISED, OutputScore
from .subject import Subject
from .tally import Tally
from .token_label import token_label
from .token_text import TokenTexts

NEIGHBOURS = 8
WORDS = 12  # promoted and suppressed tokens on a card
_CHUNK = 1024  # features between two commits: the decoder is read once for each
_ROOM = 32 * 2**20  # bytes of logits at once


class Name(NamedTuple):
    """What an authored concept calls its feature."""

    slug: str
    label: str


class Said(NamedTuple):
    """A feature's logit lens: tokens and logits, largest first, and smallest first; and V."""

    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    promised: Tensor  # [PROMISED] ids, see output_score


def write_cards(
    subject: Subject,
    dictionary: Dictionary,
    tally: Tally,
    path: Path,
    *,
    tokens: int,
    names: Mapping[int, Name],
    score: OutputScore,
) -> Iterator[int]:
    """Fill the cards file, going on after what it holds; yields features done, live and dead.

    tokens: content tokens of the corpus. Killed, it loses at most one chunk of features.
    """
    texts = TokenTexts(subject.tokenizer)
    with _opened(path) as cards:
        done = int(cards.meta.get("features_done", 0))
        for start in range(done, dictionary.info.d_sae, _CHUNK):
            stop = min(start + _CHUNK, dictionary.info.d_sae)
            live = [i for i in range(start, stop) if tally.fired[i]]
            if live:
                said = list(_lens(subject, dictionary, live, texts))
                rows = dictionary.rows(live)
                scores = score(rows, torch.stack([s.promised for s in said]))
                near = nearest(dictionary.directions(), rows.dec, live, NEIGHBOURS)
                cards.put(
                    _card(i, tally, tokens, s, float(grade), n, names.get(i), texts)
                    for i, s, grade, n in zip(live, said, scores, near, strict=True)
                )
            cards.put_meta({"features_done": stop})
            yield stop
        cards.compact()


def _opened(path: Path) -> Cards:
    return Cards.open(path, writable=True) if path.exists() else Cards.create(path)


def _lens(
    subject: Subject, dictionary: Dictionary, live: Sequence[int], texts: TokenTexts
) -> Iterator[Said]:
    vocab = len(subject.tokenizer)  # the unembedding may be padded beyond it
    at_once = max(1, _ROOM // (4 * vocab))
    for start in range(0, len(live), at_once):
        directions = dictionary.rows(live[start : start + at_once]).dec
        logits = subject.lens(directions)[:, :vocab].cpu()
        top, low = logits.topk(min(PROMISED, vocab)), (-logits).topk(min(WORDS, vocab))
        for high, values, ids, logit in zip(*top[::-1], *low[::-1], strict=True):
            yield Said(
                _named(high[:WORDS], values[:WORDS], texts), _named(ids, -logit, texts), high
            )


def _named(ids: Tensor, logits: Tensor, texts: TokenTexts) -> tuple[tuple[str, float], ...]:
    pairs = zip(ids.tolist(), logits.tolist(), strict=True)
    return tuple((texts(i), _short(v)) for i, v in pairs)


def _card(
    feature: int,
    tally: Tally,
    tokens: int,
    said: Said,
    grade: float,
    near: Sequence[tuple[int, float]],
    name: Name | None,
    texts: TokenTexts,
) -> Card:
    maximum = float(tally.maximum[feature])
    kept = tally.exemplars.of(feature, maximum)
    peaks = [[texts(int(i)) for i in k.ids[: k.peak + 1]] for k in kept]
    label = name.label if name else token_label(peaks, [token for token, _ in said.promoted])
    return Card(
        feature=feature,
        label=label,
        slug=name.slug if name else None,
        labelled_by="concept" if name else "tokens",
        density=int(tally.fired[feature]) / tokens,
        maximum=maximum,
        histogram=tally.histogram(feature),
        promoted=said.promoted,
        suppressed=said.suppressed,
        examples=tuple(_example(k, texts) for k in kept),
        output_score=min(1.0, _short(grade)),
        neighbours=tuple((i, round(cosine, 4)) for i, cosine in near),
    )


def _example(kept: Exemplar, texts: TokenTexts) -> Example:
    """Where something that is no content was left out, the text breaks into a new line."""
    tokens = [texts(int(i)) for i in kept.ids]
    broken = [at > 0 and bool(b) for at, b in enumerate(kept.broken)]
    return Example(
        tuple(f"\n{t}" if b else t for t, b in zip(tokens, broken, strict=True)),
        tuple(_short(v) for v in kept.values.tolist()),
        (_short(kept.interval[0]), _short(kept.interval[1])),
    )


def _short(value: float) -> float:
    """Four digits that count: a card is for reading."""
    return float(f"{value:.4g}")
