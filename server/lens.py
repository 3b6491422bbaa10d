"""From the residual stream to the vocabulary, found by structure: final norm and unembedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dictionaries.dictionary import Site

from .engine.sites import output_projection
from .errors import SteerdeckError

_AT_ONCE = 32 * 2**20  # bytes of float32 unembedding


def logit_lens(model: Any, layers: Sequence[nn.Module], site: Site, directions: Tensor) -> Tensor:
    """[n, vocab] float32, mean 0: what directions [n, width at the site] add to the logits.

    Those of hook_z go through the attention's output projection. No module with a hook is called.
    Raises SteerdeckError for directions that are as wide as no residual stream.
    """
    head = unembedding(model)
    x = directions.to(head.device, torch.float32)
    with torch.no_grad():
        if site.hook == "hook_z":
            x = _projected(output_projection(layers[site.layer]), x)
        if x.shape[-1] != head.shape[-1]:
            raise SteerdeckError(
                f"directions of {x.shape[-1]} numbers came, and the residual has "
                f"{head.shape[-1]}: only those have a logit lens"
            )
        x = x * final_gain(model, layers, head.shape[-1])
        rows = torch.split(head, max(1, _AT_ONCE // (4 * head.shape[-1])))
        logits = torch.cat([x @ part.float().T for part in rows], dim=-1)
    return logits - logits.mean(-1, keepdim=True)


def _projected(out: nn.Module, z: Tensor) -> Tensor:
    """What an output projection makes of z, less its bias. Its weight may be packed away; `forward`
    is called because calling the module itself would run its hooks.
    """
    first = next(out.parameters())
    z = z.to(first.device, first.dtype)
    made: Tensor = out.forward(z) - out.forward(torch.zeros_like(z))
    return made.float()


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
