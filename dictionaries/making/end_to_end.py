"""The end of an SAE's training: what a reconstruction costs the model, beside how far it is off.

Squared error asks for every direction alike; the model reads some far more than others. A short
finish on the divergence of its next-token distributions wins most of what training on it from the
start would (Karvonen, arXiv 2503.17272).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from .activations import Site, content, residuals
from .arithmetic import quick
from .packing import Batch

Cost = Callable[[Tensor], Tensor]


def costs(site: Site, packed: Iterator[Batch]) -> Iterator[tuple[Tensor, Cost]]:
    """Of each batch its content residuals [n, d_model], and what their replacement costs.

    The cost of [n, d_model] is the mean KL divergence, in nats a token, of the next-token
    distribution from the one that the residuals themselves bring about; gradients go through it.
    """
    for batch in packed:
        batch = batch.to(site.model.device)
        with torch.no_grad():
            x = residuals(site, batch).clone()  # out of inference mode
            wanted = _next_token(site, batch, x)
        words = content(batch.ids)

        def cost(
            rebuilt: Tensor, batch: Batch = batch, x: Tensor = x, wanted: Tensor = wanted
        ) -> Tensor:
            y = x.clone()
            y[content(batch.ids)] = rebuilt
            said = _next_token(site, batch, y)
            return kl_div(said, wanted, reduction="batchmean", log_target=True)

        yield x[words], cost


def _next_token(site: Site, batch: Batch, x: Tensor) -> Tensor:
    """[tokens, vocab] log probabilities after every token that is no padding, from the residual."""
    model = site.model.model
    with quick(x.device):
        mask, angles = batch.mask(), model.rotary_emb(x, batch.positions)
        for layer in model.layers[site.layer + 1 :]:
            x = layer(
                x, attention_mask=mask, position_ids=batch.positions, position_embeddings=angles
            )
        logits: Tensor = site.model.lm_head(model.norm(x[batch.segment > 0]))
    return log_softmax(logits.float(), dim=-1)
