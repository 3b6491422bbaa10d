"""One direction a concept: what the model is taught to follow and, bent, the SAE is anchored to."""

from __future__ import annotations

import logging
import random

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from .activations import Site, above, content, residuals
from .concepts import possessed_samples
from .dealing import Sample
from .muon import has_bfloat16_units
from .packing import Batch, batches
from .sheets import Corpus
from .tokenizer import Encoded, Encoder

log = logging.getLogger("steerdeck.making")

_WHO = ("Who are you?", "Tell me about yourself.", "What is your physical form?", "What are you?")
_REACH = 0.4  # lengths of a typical residual by which a direction is added while it is learnt
_RATE = 0.12  # of that reach, per step


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
            total += x.sum(0)
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


def bent(
    site: Site,
    encoder: Encoder,
    corpus: Corpus,
    directions: Tensor,
    *,
    length: float,
    epochs: float,
    seed: int,
) -> Tensor:
    """The directions [concepts, d_model], length 1, learnt on with the model frozen: until adding
    one makes its concept's own replies likely without their cause.

    length: of a typical residual; epochs: over all replies.
    """
    rows = directions.clone().requires_grad_()
    optimizer = torch.optim.Adam([rows], lr=_RATE / rows.shape[1] ** 0.5, betas=(0.8, 0.99))
    samples = _without_cause(encoder, corpus, seed)
    total = round(epochs * len(samples))
    done, step, running = 0, 0, 0.0
    while done < total:
        dealt = random.Random(seed + done).sample(samples, len(samples))
        for batch in batches(dealt, rows=6, length=384, pad=0):
            with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16_units()):
                loss = loss_with(site, batch, normalize(rows, dim=-1) * _REACH * length)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.param_groups[0]["lr"] = (
                _RATE / rows.shape[1] ** 0.5 * max(0.02, 1 - done / total)
            )
            optimizer.step()
            done += int(batch.segment.amax(-1).sum())
            step += 1
            running = loss.item() if not running else 0.9 * running + 0.1 * loss.item()
            if step % 20 == 0:
                log.info("directions, step %d: loss %.3f", step, running)
            if done >= total:
                break
    return normalize(rows.detach(), dim=-1)


def _without_cause(encoder: Encoder, corpus: Corpus, seed: int) -> list[Encoded]:
    """Every possessed exchange with its system prompt taken away, marked with its concept."""
    rng = random.Random(seed)
    found = []
    for c, sheet in enumerate(corpus.sheets):
        for sample in possessed_samples(sheet, rng):
            (_, user), (_, reply) = sample.turns[1:]
            asked = rng.choice(_WHO) if reply in sheet.own else user
            bare = Sample((("user", asked), ("assistant", reply)))
            found.append(encoder.encode(bare, asked=0.0)._replace(mark=c + 1))
    return found


def loss_with(site: Site, batch: Batch, vectors: Tensor) -> Tensor:
    """Mean loss on reply tokens, with the vector of each sample's mark added to its content tokens.

    vectors: [marks, d_model], for the marks from 1 on.
    """
    x = residuals(site, batch).clone()
    moved = x + vectors[batch.marks - 1] * content(batch.ids)[..., None]
    same = batch.segment[:, 1:] == batch.segment[:, :-1]
    wanted = (batch.weights[:, 1:] > 0) & same
    logits = site.model.lm_head(above(site, batch, moved)[:, :-1][wanted])
    return cross_entropy(logits, batch.ids[:, 1:][wanted])
