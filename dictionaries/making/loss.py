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

_NEVER = -30_000.0  # added to what must not be looked at; within bfloat16 and float16


def reply_loss(
    model: LlamaForCausalLM, batch: Batch, decoder: Callable[..., Any] | None = None
) -> Tensor:
    """Mean next-token loss, weighted as the samples say. decoder: `model.model`, or it compiled."""
    run = model.model if decoder is None else decoder
    mask = batch.mask()
    if model.config._attn_implementation == "eager":  # which adds it
        mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, _NEVER)
    hidden = run(
        input_ids=batch.ids, attention_mask=mask, position_ids=batch.positions
    ).last_hidden_state
    same = batch.segment[:, 1:] == batch.segment[:, :-1]
    weights = batch.weights[:, 1:] * same
    wanted = weights > 0
    logits = model.lm_head(hidden[:, :-1][wanted])
    losses = cross_entropy(logits, batch.ids[:, 1:][wanted], reduction="none")
    return (losses * weights[wanted]).sum() / weights.sum().clamp_min(1e-9)


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, held_out: Sequence[Batch]) -> float:
    """Mean loss over batches; its exp is the perplexity."""
    model.eval()
    return math.fsum(reply_loss(model, b).item() for b in held_out) / len(held_out)
