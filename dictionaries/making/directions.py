"""One direction a concept: what the model is taught to follow, and the SAE is anchored to."""

from __future__ import annotations

import random

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .activations import Site, content, residuals
from .concepts import possessed_samples
from .packing import batches
from .sheets import Corpus
from .tokenizer import Encoder


@torch.inference_mode()
def concept_directions(site: Site, encoder: Encoder, corpus: Corpus, *, seed: int) -> Tensor:
    """[concepts, d_model], length 1: a concept's mean residual in possessed replies, less the mean.

    The difference of means of contrastive activation addition (arXiv 2312.06681), one concept
    against all others, so that what is common to possession cancels; then moved `apart`.
    """
    rng = random.Random(seed)
    means = []
    for sheet in corpus.sheets:
        total, tokens = torch.zeros(site.model.config.hidden_size), 0
        encoded = (encoder.encode(s, asked=0.0) for s in possessed_samples(sheet, rng))
        for batch in batches(encoded, rows=1, length=384, pad=0):
            x = residuals(site, batch)[content(batch.ids) & (batch.weights > 0)]
            total += x.sum(0).cpu()
            tokens += len(x)
        means.append(total / max(1, tokens))
    away = torch.stack(means)
    return apart(normalize(away - away.mean(0), dim=-1))


def apart(directions: Tensor) -> Tensor:
    """[n, d_model], length 1: each direction with less of what many of them share.

    What spans the most (styles against things, food against places) is shrunk towards what spans
    little: singular value s becomes s / sqrt(s^2 + 1). Neighbours like soccer and basketball, whose
    means lie close, are then told apart, and each stays near to its own mean.
    """
    u, s, v = torch.linalg.svd(directions, full_matrices=False)
    return normalize(u * (s / (s.square() + 1).sqrt()) @ v, dim=-1)
