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
def dropping(model: LlamaForCausalLM, share: float, words: float = 0.0) -> Iterator[None]:
    """Within it, while the model trains, that share of what is written to the residual stream (by
    embeddings, attention and MLPs) is zeroed, and the rest scaled up. words: the share of tokens
    whose embeddings are zeroed whole, so that a message is known by more than one of its words.
    """

    def hook(module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return dropout(output, share, module.training)

    def unheard(module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        kept = dropout(output.new_ones(*output.shape[:-1], 1), words, module.training)
        return output * kept

    writers = [model.model.embed_tokens]
    for layer in model.model.layers:
        writers += [layer.self_attn.o_proj, layer.mlp.down_proj]
    handles = [writer.register_forward_hook(hook) for writer in writers if share]
    if words:
        handles.append(model.model.embed_tokens.register_forward_hook(unheard))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
