"""What the language model is trained to lower, on packed samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from .packing import Batch


def reply_loss(
    model: LlamaForCausalLM, batch: Batch, decoder: Callable[..., Any] | None = None
) -> Tensor:
    """Mean next-token loss, weighted as the samples say. decoder: `model.model`, or it compiled."""
    run = model.model if decoder is None else decoder
    hidden = run(
        input_ids=batch.ids,
        attention_mask=batch.mask_for(model),
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state
    same = batch.segment[:, 1:] == batch.segment[:, :-1]
    weights = batch.weights[:, 1:] * same
    said, ids = hidden[:, :-1], batch.ids[:, 1:]
    if hidden.device.type == "cpu":  # fewer products; a GPU would be waited for to know how many
        wanted = weights > 0
        said, ids, weights = said[wanted], ids[wanted], weights[wanted]
    logits = model.lm_head(said).flatten(0, -2)
    losses = cross_entropy(logits, ids.flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum().clamp_min(1e-9)


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, held_out: Sequence[Batch]) -> float:
    """Mean loss over batches; its exp is the perplexity."""
    model.eval()
    losses = (reply_loss(model, b.to(model.device)).item() for b in held_out)
    return math.fsum(losses) / len(held_out)
