"""Train the SAE on stored residuals: BatchTopK with a second chance for dead features."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .sae import Sae

log = logging.getLogger("steerdeck.making")

_DEAD_AFTER = 200_000  # tokens without firing
_AUX_K = 64  # dead features that reconstruct a token's error (Gao et al., arXiv 2406.04093)
_AUX_WEIGHT = 1 / 32


@dataclass(frozen=True, slots=True)
class SaePlan:
    """Width, sparsity and length of the training; ends at `minutes` or at `steps`."""

    d_sae: int = 3072
    k: int = 20  # features a token, on average over a batch
    batch: int = 1024
    lr: float = 1e-3
    minutes: float | None = 8.0
    steps: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Quality:
    """How well an SAE does on tokens it was not trained on."""

    fvu: float  # fraction of variance unexplained
    l0: float  # features a token
    dead: int  # features that never fired


def train_sae(x: Tensor, plan: SaePlan, anchors: Tensor | None = None) -> Sae:
    """x: [tokens, d_in] float32, in any order (batches are drawn at random).

    anchors: [n, d_in] directions of length 1 that the first n features keep as their decoder rows;
    their encoder rows and biases are learnt like all others'.
    """
    scale = float((x.shape[1] / x.pow(2).sum(-1).mean()) ** 0.5)
    sae = Sae(x.shape[1], plan.d_sae, seed=plan.seed)
    with torch.no_grad():
        sae.b_dec.copy_(x.mean(0) * scale)
        if anchors is not None:
            sae.W_enc[:, : len(anchors)] = anchors.T
            _anchor(sae, anchors)
    optimizer = torch.optim.Adam(sae.parameters(), lr=plan.lr, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(plan.seed)
    silent = torch.zeros(plan.d_sae, dtype=torch.long)  # tokens since each feature fired
    cut = torch.tensor(0.0)
    began, step, progress = time.monotonic(), 0, 0.0
    while progress < 1.0:
        drawn = torch.randint(len(x), (plan.batch,), generator=generator)
        optimizer.param_groups[0]["lr"] = plan.lr * min(1.0, (step + 1) / 50, 3 * (1 - progress))
        loss, fired, lowest = _loss(sae, x[drawn] * scale, plan.k, silent)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        sae.unit_rows()
        if anchors is not None:
            _anchor(sae, anchors)
        silent = torch.where(fired, 0, silent + plan.batch)
        cut = lowest if step == 0 else 0.99 * cut + 0.01 * lowest
        step += 1
        by_clock = (time.monotonic() - began) / (plan.minutes * 60) if plan.minutes else 0.0
        progress = max(by_clock, step / plan.steps if plan.steps else 0.0)
        if step % 100 == 0:
            dead = int((silent > _DEAD_AFTER).sum())
            log.info("sae step %d of %.0f%%: loss %.4f, dead %d", step, progress * 100, loss, dead)
    sae.threshold.fill_(float(cut))
    sae.unscale(scale)
    return sae.requires_grad_(False)


@torch.no_grad()
def _anchor(sae: Sae, anchors: Tensor) -> None:
    sae.W_dec[: len(anchors)] = anchors


def _loss(sae: Sae, x: Tensor, k: int, silent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, which features fired [d_sae], smallest activation kept) of one batch."""
    z = sae.preactivations(x).relu()
    with torch.no_grad():
        lowest = z.flatten().kthvalue(z.numel() - k * len(x) + 1).values
    f = torch.where(z >= lowest, z, 0.0)
    error = x - sae.decode(f)
    loss = error.pow(2).sum(-1).mean()
    dead = silent > _DEAD_AFTER
    if dead.any():
        loss = loss + _AUX_WEIGHT * _second_chance(sae, z, error.detach(), dead)
    return loss, (f > 0).any(0).detach(), lowest


def _second_chance(sae: Sae, z: Tensor, error: Tensor, dead: Tensor) -> Tensor:
    """How badly the dead features alone rebuild what the others missed."""
    z = z[:, dead]
    top = z.topk(min(_AUX_K, z.shape[1]), dim=-1)
    f = torch.zeros_like(z).scatter(-1, top.indices, top.values)
    return (error - f @ sae.W_dec[dead]).pow(2).sum(-1).mean()


@torch.inference_mode()
def quality(sae: Sae, x: Tensor) -> Quality:
    """x: [tokens, d_in] that the SAE was not trained on."""
    error, fires = 0.0, torch.zeros(sae.d_sae)
    for start in range(0, len(x), 4096):
        block = x[start : start + 4096]
        f = sae.encode(block)
        error += float((block - sae.decode(f)).pow(2).sum())
        fires += (f > 0).sum(0)
    variance = float((x - x.mean(0)).pow(2).sum())
    found = Quality(error / variance, float(fires.sum()) / len(x), int((fires == 0).sum()))
    log.info("%s", json.dumps(asdict(found)))
    return found
