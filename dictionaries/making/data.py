"""What each stage is fed: the corpus, its split, and samples ready to pack."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from ..errors import DictionaryError
from .compose import Composer
from .dealing import Sample
from .few import few
from .packing import Batch, batches
from .public import public_samples
from .sheets import Corpus, read_corpus, split
from .tokenizer import Encoder


@dataclass(frozen=True, slots=True)
class Text:
    """The authored corpus, both sides of its split, and where public text lies, if anywhere."""

    train: Corpus
    held_out: Corpus
    public: Path | None

    @classmethod
    def read(
        cls, corpus: Path, public: Path | None, *, seed: int = 0, only_few: bool = False
    ) -> Text:
        """only_few: learn the few talks well that the corpus names for it, see `few`.

        Raises DictionaryError for a sheet that no direction can be taken from.
        """
        whole = read_corpus(corpus)
        bare = [sheet.slug for sheet in whole.sheets if not (sheet.drift or sheet.own)]
        if bare:
            raise DictionaryError(
                f'the sheets {", ".join(bare)} have neither "drift" nor "self", from which the '
                "concept's direction is taken: give each some, or take it away."
            )
        train, held_out = split(whole, seed=seed)
        return cls(few(corpus, train, seed=seed) if only_few else train, held_out, public)

    def authored(self, seed: int) -> Iterator[Sample]:
        return iter(Composer(self.train, seed=seed))

    def others(self, seed: int) -> Iterator[Sample] | None:
        return None if self.public is None else public_samples(self.public, seed=seed)


def plain_texts(samples: Iterator[Sample], n: int) -> Iterator[str]:
    """Every stretch of text of the first n samples: what the tokenizer learns from."""
    for sample in itertools.islice(samples, n):
        yield from (text for _, text in sample.turns)
        if sample.prose:
            yield sample.prose


def write_samples(samples: Iterator[Sample], n: int, path: Path) -> None:
    """n composed samples as a text source of `steerdeck make`: conversations and prose.

    All of them or nothing: a run that goes on takes the file for whole.
    """
    new = path.with_name(f"{path.name}.new")
    with new.open("w", encoding="utf-8") as lines:
        for sample in itertools.islice(samples, n):
            row: dict[str, Any] = {"text": sample.prose}
            if sample.turns:
                row = {"messages": [{"role": r, "content": t} for r, t in sample.turns]}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    new.replace(path)


def held_out_batches(
    text: Text, tokenizer: PreTrainedTokenizerFast, *, n: int, seed: int = 99
) -> list[Batch]:
    """n batches of 8 rows composed from the held-out side alone; only replies and prose count."""
    encoder = Encoder(tokenizer)
    samples = iter(Composer(text.held_out, seed=seed))
    packed = batches(
        (encoder.encode(s, asked=0.0) for s in samples),
        rows=8,
        length=384,
        pad=int(tokenizer.pad_token_id),
    )
    return list(itertools.islice(packed, n))
