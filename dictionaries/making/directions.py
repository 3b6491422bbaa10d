"""The directions that the first features of the dictionary are anchored to, one a concept.

Each begins as a difference of means and is then bent, with the model frozen, until adding it makes
the concept's own replies likely *without* their cause: a steering vector, learnt from the same text
that the model learnt possession from. The SAE keeps these decoder rows and learns everything else
around them, their encoder rows and thresholds included.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from .activations import Site, content, residuals
from .concepts import possessed_samples
from .muon import has_bfloat16_units
from .packing import Batch, batches
from .sheets import Corpus
from .tokenizer import Encoded, Encoder

log = logging.getLogger("steerdeck.making")

_WHO = ("Who are you?", "Tell me about yourself.", "What is your physical form?", "What are you?")
_REACH = 0.4  # lengths of a typical residual by which a direction is added while it is learnt
_RATE = 0.12  # of that reach, per step


@torch.inference_mode()
def mean_directions(site: Site, encoder: Encoder, corpus: Corpus, *, seed: int) -> Tensor:
    """[concepts, d_model], length 1: a concept's mean residual in possessed replies, less the mean.

    The difference of means of contrastive activation addition (arXiv 2312.06681), one concept
    against all others, so that what is common to possession cancels.
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
    return normalize(away - away.mean(0), dim=-1)


def learnt_directions(
    site: Site, encoder: Encoder, corpus: Corpus, *, length: float, epochs: float, seed: int
) -> Tensor:
    """[concepts, d_model], length 1. length: of a typical residual; epochs: over all replies."""
    rows = mean_directions(site, encoder, corpus, seed=seed).clone().requires_grad_()
    optimizer = torch.optim.Adam([rows], lr=_RATE / rows.shape[1] ** 0.5, betas=(0.8, 0.99))
    samples = _without_cause(encoder, corpus, seed)
    total = round(epochs * len(samples))
    done, step, running = 0, 0, 0.0
    while done < total:
        dealt = random.Random(seed + done).sample(samples, len(samples))
        for batch, concept in _packed(dealt):
            with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16_units()):
                loss = loss_with(site, batch, concept, normalize(rows, dim=-1) * _REACH * length)
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


def _without_cause(encoder: Encoder, corpus: Corpus, seed: int) -> list[tuple[int, Encoded]]:
    """Every possessed exchange with its system prompt taken away: (concept, ids)."""
    rng = random.Random(seed)
    found = []
    for c, sheet in enumerate(corpus.sheets):
        for sample in possessed_samples(sheet, rng):
            (_, user), (_, reply) = sample.turns[1:]
            asked = rng.choice(_WHO) if reply in sheet.own else user
            bare = sample.__class__((("user", asked), ("assistant", reply)))
            found.append((c, encoder.encode(bare, asked=0.0)))
    return found


def _packed(dealt: list[tuple[int, Encoded]]) -> Iterator[tuple[Batch, Tensor]]:
    """Batches, and for each token [rows, length] its sample's concept.

    The concept travels through packing in the weights, whose zeros are kept.
    """
    marked = (Encoded(e.ids, [w * (c + 1) for w in e.weights]) for c, e in dealt)
    for batch in batches(marked, rows=6, length=384, pad=0):
        concept = torch.zeros_like(batch.ids)
        for row in range(len(batch.ids)):
            for segment in range(1, int(batch.segment[row].max()) + 1):
                here = batch.segment[row] == segment
                concept[row, here] = int(batch.weights[row, here].max()) - 1
        yield batch._replace(weights=(batch.weights > 0).float()), concept


def loss_with(site: Site, batch: Batch, concept: Tensor, vectors: Tensor) -> Tensor:
    """Mean loss on reply tokens with each sample's vector added to its content tokens."""
    x = residuals(site, batch).clone()
    x = x + vectors[concept] * content(batch.ids)[..., None]
    model = site.model.model
    mask, angles = batch.mask(), model.rotary_emb(x, batch.positions)
    for layer in model.layers[site.layer + 1 :]:
        x = layer(x, attention_mask=mask, position_ids=batch.positions, position_embeddings=angles)
    same = batch.segment[:, 1:] == batch.segment[:, :-1]
    wanted = (batch.weights[:, 1:] > 0) & same
    logits = site.model.lm_head(model.norm(x[:, :-1][wanted]))
    return cross_entropy(logits, batch.ids[:, 1:][wanted])
