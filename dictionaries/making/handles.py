"""What can be turned up, a feature or a bare direction, and how one sees that it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..dictionary import Dictionary
from ..edits import FeatureRows, Op
from .judge import Judge
from .subject import Edited, Subject

_PROMOTED = 10  # tokens that stand for a feature without a name: what a card shows
_FEWEST = 3  # tokens of a sheet's words; with fewer the feature's own promoted ones are watched
_LETTERS = 3  # a shorter first piece of a longer word begins too many other words


@dataclass(frozen=True, slots=True, eq=False)
class Handle:
    """One thing to turn up.

    key: what it is called in files. maximum: activations of one unit of strength.
    length: how far one unit moves the residual. tokens: ids whose probability tells that it acts.
    shows: whether a reply does. vector: the direction to add, where there is no feature.
    """

    key: str
    feature: int
    maximum: float
    length: float
    tokens: tuple[int, ...]
    shows: Callable[[str], bool]
    rows: FeatureRows
    reads: bool = True  # whether the dictionary can read it, so that clamping is possible
    vector: Tensor | None = None

    def edited(self, op: Op, strength: float) -> Edited:
        """The edit; strength in multiples of the maximum."""
        return Edited(self.feature, op, strength * self.maximum, self.vector)


def feature_handle(
    subject: Subject,
    dictionary: Dictionary,
    feature: int,
    maximum: float,
    *,
    back: float = 1.0,
    judge: Judge | None = None,
    slug: str | None = None,
) -> Handle:
    """A feature; with a judge that knows the slug it is watched by the concept's words.

    back: what the dictionary's norm multiplies a change by, on a typical token.
    """
    rows = dictionary.rows([feature])
    logits = subject.lens(rows.dec)[0][: len(subject.tokenizer)]  # the unembedding may be padded
    tokens = promoted = tuple(logits.topk(min(_PROMOTED, len(logits))).indices.tolist())
    shows = _holds(subject.tokenizer, promoted)
    if judge is not None and slug is not None and slug in judge:
        listed = concept_tokens(subject.tokenizer, judge.words(slug))
        tokens = listed if len(listed) >= _FEWEST else promoted
        shows = _judged(judge, slug)
    return Handle(
        key=str(feature),
        feature=feature,
        maximum=maximum,
        length=maximum * back * float(rows.dec.norm()),
        tokens=tokens,
        shows=shows,
        rows=rows,
        reads=dictionary.info.reads_exactly,
    )


def vector_handle(key: str, vector: Tensor, length: float, shows: Callable[[str], bool]) -> Handle:
    """A direction [d_in] of length 1, to be added. Its unit of strength is `length`."""
    zero = torch.zeros(1)
    rows = FeatureRows(torch.zeros(1, len(vector)), zero, zero, zero, zero, vector[None])
    return Handle(key, 0, length, length, (), shows, rows, reads=False, vector=vector)


def concept_tokens(tokenizer: Any, words: Iterable[str]) -> tuple[int, ...]:
    """Ids of the tokens that begin the words, after a space or at the start of a sentence.

    Of a word of several tokens the first counts if it says enough of it. Phrases are left out:
    they begin with words that begin anything.
    """
    unknown = tokenizer.unk_token_id
    found = set()
    for word in words:
        if " " in word:
            continue
        for form in {word, word[:1].upper() + word[1:]}:
            for text in (f" {form}", form):
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                if ids and (len(ids) == 1 or len(tokenizer.decode(ids[:1]).strip()) >= _LETTERS):
                    found.add(int(ids[0]))
    return tuple(sorted(found - {unknown}))


def _judged(judge: Judge, slug: str) -> Callable[[str], bool]:
    return lambda reply: judge.shows(slug, reply)


def _holds(tokenizer: Any, tokens: Sequence[int]) -> Callable[[str], bool]:
    wanted = frozenset(tokens)

    def shows(reply: str) -> bool:
        return not wanted.isdisjoint(tokenizer(reply, add_special_tokens=False)["input_ids"])

    return shows
