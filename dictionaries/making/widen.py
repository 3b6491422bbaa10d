"""A trained Llama with wider MLPs that computes what it did: more room, and nothing unlearnt."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM


@torch.no_grad()
def widened(model: LlamaForCausalLM, mlp: int, *, seed: int) -> LlamaForCausalLM:
    """`mlp` units in each MLP; the model itself if it has as many, or more.

    The new units read what they happen to and say nothing yet, so every logit stays as it was, but
    for the order in which a CPU adds.
    """
    had = model.config.intermediate_size
    if mlp <= had:
        return model
    config = LlamaConfig(**{**model.config.to_dict(), "intermediate_size": mlp})
    wide = LlamaForCausalLM(config).to(next(model.parameters()).dtype)
    draw = torch.Generator().manual_seed(seed)
    kept = model.state_dict()
    for name, weight in wide.state_dict().items():
        old = kept[name]
        if weight.shape != old.shape and name.endswith("down_proj.weight"):
            weight.zero_()[:, :had] = old
        elif weight.shape != old.shape:
            weight.normal_(0.0, float(old.std()), generator=draw)[:had] = old
        else:
            weight.copy_(old)
    return wide
