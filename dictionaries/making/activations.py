"""The residual stream at a decoder layer's output, on content tokens only.

BOS and template tokens are left out everywhere: their residuals are many times longer than any
word's, and would own both the SAE's loss and every statistic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from .packing import Batch
from .tokenizer import SPECIAL


class Site(NamedTuple):
    """Where the dictionary reads and writes: the output of decoder layer `layer`."""

    model: LlamaForCausalLM
    layer: int

    @property
    def block(self) -> nn.Module:
        block: nn.Module = self.model.model.layers[self.layer]
        return block


@contextmanager
def caught(site: Site) -> Iterator[list[Tensor]]:
    """Within it, every forward pass appends the residual [rows, tokens, d_model] to the list."""
    seen: list[Tensor] = []

    def hook(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen.append(output if isinstance(output, Tensor) else output[0])

    handle = site.block.register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def replaced(site: Site, change: object) -> Iterator[None]:
    """Within it, the residual x becomes change(x)."""

    def hook(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> object:
        if isinstance(output, Tensor):
            return change(output)  # type: ignore[operator]
        return (change(output[0]), *output[1:])  # type: ignore[operator]

    handle = site.block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def content(ids: Tensor) -> Tensor:
    """True where a token is text: special tokens have the first ids (see tokenizer.SPECIAL)."""
    return ids >= len(SPECIAL)


@torch.inference_mode()
def residuals(site: Site, batch: Batch) -> Tensor:
    """[rows, length, d_model] of a packed batch; stops after the site's layer."""
    site.model.eval()
    batch = batch.to(site.model.device)
    model = site.model.model
    layers, model.layers = model.layers, model.layers[: site.layer + 1]
    try:
        with caught(site) as seen:
            model(
                input_ids=batch.ids,
                attention_mask=batch.mask_for(site.model),
                position_ids=batch.positions,
            )
    finally:
        model.layers = layers
    return seen[0]


def content_residuals(site: Site, packed: Iterable[Batch], tokens: int) -> Tensor:
    """[tokens, d_model] float32 of that many content tokens, in the order of the batches."""
    store = torch.empty(tokens, site.model.config.hidden_size, device=site.model.device)
    at = 0
    for batch in packed:
        x = residuals(site, batch)[content(batch.ids)][: tokens - at]
        store[at : at + len(x)] = x
        at += len(x)
        if at == tokens:
            return store
    return store[:at]
