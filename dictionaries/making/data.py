"""What each stage is fed: the corpus, its split, and samples ready to pack."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from .compose import Composer
from .dealing import Sample
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
    def read(cls, corpus: Path, public: Path | None, *, seed: int = 0) -> Text:
        return cls(*split(read_corpus(corpus), seed=seed), public)

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
