"""Numbers about a model and its dictionary on held-out text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .activations import Site, content, replaced
from .packing import Batch
from .sae import Sae
from .train_model import held_out_loss


@dataclass(frozen=True, slots=True)
class Splice:
    """Held-out loss as it is, with the SAE's reconstruction spliced in, and with the mean."""

    loss: float
    spliced: float
    ablated: float

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    @property
    def recovered(self) -> float:
        """1: the reconstruction is as good as the residual; 0: no better than its mean."""
        return (self.ablated - self.spliced) / max(1e-9, self.ablated - self.loss)


def splice(site: Site, sae: Sae, held_out: Sequence[Batch], mean: Tensor) -> Splice:
    """Content tokens only; template tokens pass untouched. mean: [d_in] of content tokens."""

    def with_change(rebuilt: object) -> float:
        total = 0.0
        for batch in held_out:
            keep = content(batch.ids)[..., None]

            def change(x: Tensor, keep: Tensor = keep) -> Tensor:
                return torch.where(keep, rebuilt(x), x)  # type: ignore[operator]

            with replaced(site, change):
                total += held_out_loss(site.model, [batch])
        return total / len(held_out)

    return Splice(
        loss=held_out_loss(site.model, held_out),
        spliced=with_change(lambda x: sae.decode(sae.encode(x))),
        ablated=with_change(lambda x: mean.expand_as(x)),
    )
