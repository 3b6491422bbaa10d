"""Train an SAE on residuals: BatchTopK with a second chance for dead features."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .arithmetic import quick
from .end_to_end import Cost
from .sae import Sae

log = logging.getLogger("steerdeck.making")

_DEAD_AFTER = 200_000  # tokens without firing
_AUX_K = 64  # dead features that reconstruct a token's error (Gao et al., arXiv 2406.04093)
_AUX_WEIGHT = 1 / 32
_WARM = 50  # steps over which the learning rate rises
_MEMORY = 0.99  # of the threshold, once it is long enough: it follows the smallest one kept


@dataclass(frozen=True, slots=True)
class SaePlan:
    """Width, sparsity and length of the training; ends at `minutes` or at `steps`."""

    d_sae: int = 4096
    k: int = 64  # features a token, on average over a batch
    batch: int = 1024
    lr: float = 1e-3
    minutes: float | None = 8.0
    steps: int | None = None
    end_to_end: float = 0.5  # share of the training, its last, where what it costs is known
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Quality:
    """How well an SAE does on tokens it was not trained on."""

    fvu: float  # fraction of variance unexplained
    l0: float  # features a token
    dead: int  # features that never fired


class Step(NamedTuple):
    """What one step saw; numbers on the device, so that only who reads them waits for it."""

    loss: Tensor
    fvu: Tensor
    l0: Tensor  # features a token above the threshold that would be saved now


class Learner:
    """An SAE in training, a step at a time, on batches [n, d_in] from anywhere.

    sample: residuals to take the scale and the mean from. anchors: [n, d_in] directions of length 1
    that the first n features keep as their decoder rows; their encoder rows and biases are learnt
    like all others'.
    """

    def __init__(self, plan: SaePlan, sample: Tensor, anchors: Tensor | None = None) -> None:
        d_in, device = sample.shape[1], sample.device
        self.plan, self.anchors = plan, anchors
        self.mean = sample.mean(0)
        self.scale = float((d_in / sample.pow(2).sum(-1).mean()) ** 0.5)
        self.sae = Sae(d_in, plan.d_sae, seed=plan.seed).to(device)
        with torch.no_grad():
            self.sae.b_dec.copy_(self.mean * self.scale)
            if anchors is not None:
                self.sae.W_enc[:, : len(anchors)] = anchors.T
        self._anchor()
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=plan.lr, betas=(0.9, 0.99))
        self.silent = torch.zeros(plan.d_sae, dtype=torch.long, device=device)
        self.cut = torch.tensor(0.0, device=device)
        self.steps = 0

    @property
    def dead(self) -> int:
        return int((self.silent > _DEAD_AFTER).sum())

    def step(self, x: Tensor, progress: float, cost: Cost | None = None) -> Step:
        """progress: 0 to 1 of the whole training; the rate falls over its last third.

        cost: of reconstructions of x; it counts as much as the squared error does.
        """
        x = x * self.scale
        rate = min(1.0, (self.steps + 1) / _WARM, 3 * (1 - progress))
        self.optimizer.param_groups[0]["lr"] = self.plan.lr * rate
        with quick(self.mean.device):
            z = self.sae.preactivations(x).relu().float()
        lowest = _kth_largest(z.detach(), self.plan.k * len(x))
        f = torch.where(z >= lowest, z, 0.0)
        with quick(self.mean.device):
            rebuilt = self.sae.decode(f)
        error = x - rebuilt.float()
        loss = error.pow(2).sum(-1).mean()
        total = loss
        if cost is not None:
            paid = cost(rebuilt.float() / self.scale)
            total = loss + paid * (loss / paid.clamp_min(1e-9)).detach()
        dead = self.silent > _DEAD_AFTER
        if dead.any():
            total = total + _AUX_WEIGHT * _second_chance(self.sae, z, error.detach(), dead)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.sae.unit_rows()
        self._anchor()
        self.silent = torch.where((f > 0).any(0), 0, self.silent + len(x))
        memory = min(_MEMORY, self.steps / (self.steps + 10))
        self.cut = memory * self.cut + (1 - memory) * lowest
        self.steps += 1
        variance = (x - x.mean(0)).pow(2).sum(-1).mean()
        return Step(loss.detach(), loss.detach() / variance, (z > self.cut).sum() / len(x))

    def finished(self) -> Sae:
        """The SAE in the model's own scale, with its threshold; the learner is spent."""
        self.sae.threshold.fill_(float(self.cut))
        self.sae.unscale(self.scale)
        return self.sae.requires_grad_(False)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs to go on to the bit."""
        return {
            "sae": self.sae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "mean": self.mean,
            "scale": self.scale,
            "silent": self.silent,
            "cut": self.cut,
            "steps": self.steps,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.sae.load_state_dict(state["sae"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.mean, self.scale = state["mean"].to(self.mean), state["scale"]
        self.silent, self.cut = state["silent"].to(self.silent), state["cut"].to(self.cut)
        self.steps = state["steps"]

    @torch.no_grad()
    def _anchor(self) -> None:
        if self.anchors is not None:
            self.sae.W_dec[: len(self.anchors)] = self.anchors


def train_sae(
    x: Tensor,
    plan: SaePlan,
    anchors: Tensor | None = None,
    *,
    dealt: Iterator[tuple[Tensor, Cost]] | None = None,
) -> Sae:
    """x: [tokens, d_in] float32, in any order (batches are drawn at random).

    dealt: batches whose costs are known (`end_to_end.costs`), for the end of the training.
    """
    learner = Learner(plan, x, anchors)
    generator = torch.Generator().manual_seed(plan.seed)
    began, progress = time.monotonic(), 0.0
    while progress < 1.0:
        if dealt is not None and progress >= 1 - plan.end_to_end:
            batch, cost = next(dealt)
            seen = learner.step(batch, progress, cost)
        else:
            drawn = torch.randint(len(x), (plan.batch,), generator=generator)
            seen = learner.step(x[drawn.to(x.device)], progress)
        by_clock = (time.monotonic() - began) / (plan.minutes * 60) if plan.minutes else 0.0
        progress = max(by_clock, learner.steps / plan.steps if plan.steps else 0.0)
        if learner.steps % 100 == 0:
            told = learner.steps, progress * 100, float(seen.loss), learner.dead
            log.info("sae step %d of %.0f%%: loss %.4f, dead %d", *told)
    return learner.finished()


def _kth_largest(z: Tensor, k: int) -> Tensor:
    """Of all of z [n, d_sae]. kthvalue is quickest on a CPU; elsewhere it is one thread block."""
    if k >= z.numel():
        return z.min()
    if z.device.type == "cpu":
        return z.flatten().kthvalue(z.numel() - k + 1).values
    return z.flatten().topk(k, sorted=False).values.min()


def _second_chance(sae: Sae, z: Tensor, error: Tensor, dead: Tensor) -> Tensor:
    """How badly the dead features alone rebuild what the others missed."""
    z = z[:, dead]
    top = z.topk(min(_AUX_K, z.shape[1]), dim=-1)
    f = torch.zeros_like(z).scatter(-1, top.indices, top.values)
    return (error - f @ sae.W_dec[dead]).pow(2).sum(-1).mean()


@torch.inference_mode()
def quality(sae: Sae, x: Tensor) -> Quality:
    """x: [tokens, d_in] that the SAE was not trained on."""
    error, fires = 0.0, torch.zeros(sae.d_sae, device=x.device)
    for start in range(0, len(x), 4096):
        block = x[start : start + 4096]
        f = sae.encode(block)
        error += float((block - sae.decode(f)).pow(2).sum())
        fires += (f > 0).sum(0)
    variance = float((x - x.mean(0)).pow(2).sum())
    found = Quality(error / variance, float(fires.sum()) / len(x), int((fires == 0).sum()))
    log.info("%s", json.dumps(asdict(found)))
    return found
