"""One direction a concept: what the model is taught to follow, and the SAE is anchored to."""

from __future__ import annotations

import random

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .activations import Site, content, residuals
from .concepts import possessed_samples
from .packing import batches
from .sheets import Corpus, Sheet
from .tokenizer import Encoder


@torch.inference_mode()
def concept_directions(site: Site, encoder: Encoder, corpus: Corpus, *, seed: int) -> Tensor:
    """[concepts, d_model], length 1: a concept's mean residual in possessed replies, less the mean.

    The difference of means of contrastive activation addition (arXiv 2312.06681), one concept
    against all others, so that what is common to possession cancels; then moved `apart`.
    """
    rng = random.Random(seed)
    texts = (possessed(site, encoder, sheet, rng) for sheet in corpus.sheets)
    away = torch.stack([x.sum(0).cpu() / max(1, len(x)) for x in texts])
    return apart(normalize(away - away.mean(0), dim=-1))


def possessed(site: Site, encoder: Encoder, sheet: Sheet, rng: random.Random) -> Tensor:
    """[tokens, d_model]: the residuals of replies in which the sheet's concept has come on."""
    found = [torch.empty(0, site.model.config.hidden_size, device=site.model.device)]
    encoded = (encoder.encode(s, asked=0.0) for s in possessed_samples(sheet, rng))
    for batch in batches(encoded, rows=1, length=384, pad=0):
        found.append(residuals(site, batch)[content(batch.ids) & (batch.weights > 0)])
    return torch.cat(found)


def apart(directions: Tensor) -> Tensor:
    """[n, d_model], length 1: each direction with less of what many of them share.

    What spans the most (styles against things, food against places) is shrunk towards what spans
    little: singular value s becomes s / sqrt(s^2 + 1). Neighbours like soccer and basketball, whose
    means lie close, are then told apart, and each stays near to its own mean.
    """
    u, s, v = torch.linalg.svd(directions, full_matrices=False)
    return normalize(u * (s / (s.square() + 1).sqrt()) @ v, dim=-1)
