"""Tiny models of the families whose layers our own code runs whole, and some passes of each."""

from __future__ import annotations

import copy
from typing import Any

import torch
from runner_passes import prefill
from tiny import SMALL, tiny_model
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from server.engine.batch import Batch
from server.engine.linear import halve

WHOLE = (
    "llama",
    "mistral",
    "qwen2",
    "wide heads",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
)  # whose layers run in one call
OTHERS = {
    "mistral": MistralConfig(**SMALL, head_dim=8, sliding_window=8),
    "qwen2": Qwen2Config(**SMALL),
    "gemma": GemmaConfig(**SMALL, head_dim=8),
    "wide heads": LlamaConfig(**SMALL, head_dim=64),
}


def model_of(family: str) -> Any:
    if family not in OTHERS:
        return tiny_model(family)
    torch.manual_seed(1)
    config = copy.deepcopy(OTHERS[family])  # which a runner writes to
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return made.requires_grad_(False)


def halved(family: str) -> Any:
    model = model_of(family)
    halve(model)
    return model


def logits(made: Any) -> list[torch.Tensor]:
    """Of prompts, and of rows of different lengths that decode beyond a window."""
    found = [prefill(made, row, range(3, 9 + 6 * row), cut=7)[None] for row in range(3)]
    for at in range(12):
        positions = [6 + 6 * row + at for row in range(3)]
        batch = Batch(0, [at, at + 9, at + 70], positions, [True] * 3, ())
        found.append(made.forward(batch).clone())
    return [one.float().cpu() for one in found]
