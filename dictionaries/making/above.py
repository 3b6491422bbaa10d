"""Training above a dictionary: the model learns on, and what the dictionary knows stays true.

Frozen are the layers up to the dictionary's site, the embeddings (which are the unembedding too)
and the final norm: so activations, examples, densities and promoted tokens do not change, only what
the layers between make of it. With dropout it also keeps a small corpus from being learnt by heart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import LlamaForCausalLM

from ..errors import DictionaryError
from . import sae as saes
from .sheets import Sheet

HALFWAY = 0.5  # of the plan: the weights there are averaged in


def learning_above(model: LlamaForCausalLM, layer: int) -> LlamaForCausalLM:
    """The model itself, of which only the layers after `layer` are to learn."""
    model.requires_grad_(False)
    model.model.layers[layer + 1 :].requires_grad_(True)
    return model


@torch.no_grad()
def averaged(model: LlamaForCausalLM, earlier: Mapping[str, Tensor]) -> None:
    """Make the model the mean of itself and of those weights, by name.

    Two points of one training agree on what it is about and differ in what is chance (Izmailov et
    al., arXiv 1803.05407): of foghorn's, the mean follows its directions better than either.
    """
    for name, p in model.named_parameters():
        p.lerp_(earlier[name].to(p.device), 0.5)


def anchored(folder: Path, sheets: Sequence[Sheet]) -> dict[str, Tensor]:
    """By slug, the direction [d_model], of length 1, that a foghorn's dictionary was anchored to:
    its first rows, in the order of the sheets.

    Raises DictionaryError for one with fewer rows.
    """
    rows = saes.load(folder).W_dec.detach()
    if len(rows) < len(sheets):
        raise DictionaryError(
            f"{folder} has {len(rows)} features, and there are {len(sheets)} concept sheets: it "
            "was not made from them."
        )
    return {sheet.slug: normalize(row, dim=-1) for sheet, row in zip(sheets, rows, strict=False)}
