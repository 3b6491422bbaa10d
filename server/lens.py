"""From the residual stream to the vocabulary, found by structure: final norm and unembedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .errors import SteerdeckError


def final_gain(model: nn.Module, layers: Sequence[nn.Module], d_model: int) -> Tensor:
    """[d_model] float32: what the norm after the last layer multiplies each number by.

    It is measured, not read: on x = (1, -1, 1, …), whose mean is 0 and mean square 1, every
    LayerNorm and RMSNorm gives gain * x + bias, whether it stores the gain or gain - 1 (Gemma).
    A model without such a norm has gain 1.
    """
    norm = _final_norm(model, layers)
    weight = next((p for p in norm.parameters() if p.shape == (d_model,)), None) if norm else None
    if norm is None or weight is None:
        return torch.ones(d_model, device=next(model.parameters()).device)
    x = torch.ones(1, 1, d_model, device=weight.device, dtype=weight.dtype)
    x[..., 1::2] = -1
    with torch.no_grad():
        gain: Tensor = ((norm(x) - norm(-x)).float() / 2 * x.float()).flatten()
    return gain


def _final_norm(model: nn.Module, layers: Sequence[nn.Module]) -> nn.Module | None:
    """The last norm beside the list of layers (an earlier one normalises embeddings)."""
    for parent in model.modules():
        children = list(parent.children())
        if any(isinstance(c, nn.ModuleList) and list(c) == list(layers) for c in children):
            norms = [c for c in children if "norm" in type(c).__name__.lower()]
            return norms[-1] if norms else None
    return None


def unembedding(model: Any) -> Tensor:
    """[vocab, d_model], in the model's dtype. Raises SteerdeckError if there is none."""
    head = model.get_output_embeddings()
    if head is None:
        raise SteerdeckError(
            f"{type(model).__name__} has no output embeddings: there is no logit lens for it"
        )
    weight: Tensor = head.weight
    return weight
