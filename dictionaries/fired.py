"""What fires on some vectors: of each the largest activations, and of each feature how it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .dictionary import Dictionary
from .scan import largest


class Fired(NamedTuple):
    """values, ids: [n, top], the largest activations of each vector, largest first; some may be 0.

    most, at, mean: [d_sae], a feature's largest activation, the vector it was at, and the mean
    over all vectors.
    """

    values: Tensor
    ids: Tensor
    most: Tensor
    at: Tensor
    mean: Tensor


def fired(dictionary: Dictionary, x: Tensor, top: int) -> Fired:
    """Of x [n, d_in] with n > 0, in one pass over the encoder, of which one block is in memory.

    Raises DictionaryError for a dictionary whose activations cannot be read.
    """
    most, mean = torch.zeros(2, dictionary.info.d_sae).unbind()
    at = torch.zeros(dictionary.info.d_sae, dtype=torch.long)

    def noted() -> Iterator[tuple[int, Tensor]]:
        for start, f in dictionary.encoded(x):
            part = slice(start, start + f.shape[-1])
            most[part], at[part] = f.max(0)
            mean[part] = f.mean(0)
            yield start, f

    values, ids = largest(noted(), top)
    return Fired(values, ids, most, at, mean)


class Side(NamedTuple):
    """Of some texts, [d_sae] each. mean: of a feature's mean activations in them, every text
    counting the same; share: of the texts on which it fires.
    """

    mean: Tensor
    share: Tensor


def over_texts(dictionary: Dictionary, sides: Sequence[Sequence[Tensor]]) -> list[Side]:
    """Of each of several sets of texts; a text is [n, d_in] with n > 0.

    One pass over the encoder for all of them; one block of it is in memory, and what that makes of
    one text. Raises DictionaryError for a dictionary whose activations cannot be read.
    """
    told = [Side(*torch.zeros(2, dictionary.info.d_sae)) for _ in sides]
    of = [(own, len(side)) for own, side in zip(told, sides, strict=True) for _ in side]
    for start, each in dictionary.encoded_each([text for side in sides for text in side]):
        for (own, texts), f in zip(of, each, strict=True):
            part = slice(start, start + f.shape[-1])
            own.mean[part] += f.mean(0) / texts
            own.share[part] += (f.amax(0) > 0) / texts
    return told
