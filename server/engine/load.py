"""A folder of weights -> a model and its tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..errors import SteerdeckError

log = logging.getLogger("steerdeck.load")


def load_model(
    path: Path,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> tuple[Any, Any]:
    """Load a Hugging Face folder for inference; returns (model, tokenizer).

    dtype: "float32", "bfloat16", ...; by default float32 on a CPU, where half precision is slower,
    and what the weights are stored in elsewhere. progress: told what is being loaded.
    Raises SteerdeckError for a folder that holds no causal language model and fast tokenizer.
    """
    chosen = dtype or ("float32" if device == "cpu" else "auto")
    try:
        progress("loading the tokenizer")
        tokenizer: Any = AutoTokenizer.from_pretrained(path)
        progress("loading the model")
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=chosen if chosen == "auto" else getattr(torch, chosen)
        )
    except (OSError, ValueError, AttributeError) as error:
        raise SteerdeckError(f"{path} could not be loaded as a language model: {error}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise SteerdeckError(f"{path} has no tokenizer.json: a fast tokenizer is needed.")
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:  # no such device, or no room on it
        raise SteerdeckError(
            f"the model cannot be put on {device}: {str(error).splitlines()[0]} "
            "(auto, cpu, cuda, cuda:1 and mps are devices)"
        ) from error
    model.eval().requires_grad_(False)
    log.info("loaded %s (%.0fM parameters)", path, model.num_parameters() / 1e6)
    return model, tokenizer
