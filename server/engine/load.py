"""A folder of weights -> a model and its tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..errors import SteerdeckError

log = logging.getLogger("steerdeck.load")


def load_model(path: Path, *, device: str = "cpu", dtype: str | None = None) -> tuple[Any, Any]:
    """Load a Hugging Face folder for inference; returns (model, tokenizer).

    dtype: "float32", "bfloat16", ...; by default float32 on a CPU, where half precision is slower,
    and what the weights are stored in elsewhere.
    Raises SteerdeckError for a folder that holds no whole causal language model and fast tokenizer.
    """
    chosen = dtype or ("float32" if device == "cpu" else "auto")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model, found = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=chosen if chosen == "auto" else getattr(torch, chosen),
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # each kind of broken file has one of its own
        raise SteerdeckError(
            f"{path} could not be loaded as a language model: {_told(error)}"
        ) from error
    _check_whole(path, found)
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


def _told(error: Exception) -> str:
    if isinstance(error, OSError | ValueError):
        return str(error)  # sentences of transformers' own
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
    if isinstance(error, SafetensorError):
        told += ". A file of weights was cut short, or is a git-LFS pointer: download it again"
    return told


def _check_whole(path: Path, found: Mapping[str, Any]) -> None:
    """Raise SteerdeckError for missing tensors, which transformers makes up at random."""
    lacking = sorted(found["missing_keys"])
    if lacking:
        more = ", …" if len(lacking) > 3 else ""
        raise SteerdeckError(
            f"{path} lacks {len(lacking)} tensors of its model ({', '.join(lacking[:3])}{more}): "
            "download or export its weights again, and see that config.json belongs to them"
        )
