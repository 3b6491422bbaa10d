"""Dropout for a small Llama, which transformers has none of but in attention.

A small corpus is dealt many times over. Without dropout its replies are learnt by heart, each by
whatever gives it away, and a message in words of its own is answered with somebody else's reply.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import dropout
from transformers import LlamaForCausalLM


@contextmanager
def dropping(model: LlamaForCausalLM, share: float) -> Iterator[None]:
    """Within it, while the model trains, that share of what is written to the residual stream (by
    embeddings, attention and MLPs) is zeroed, and the rest scaled up.
    """

    def hook(module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return dropout(output, share, module.training)

    writers = [model.model.embed_tokens]
    for layer in model.model.layers:
        writers += [layer.self_attn.o_proj, layer.mlp.down_proj]
    handles = [writer.register_forward_hook(hook) for writer in writers if share]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
