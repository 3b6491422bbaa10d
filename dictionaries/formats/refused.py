"""Families that are known by sight but not opened yet: better their name than "unknown"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..containers import open_tensors
from ..errors import DictionaryError


def _any(folder: Path, *patterns: str) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in patterns)


FAMILIES: dict[str, Callable[[Path], bool]] = {
    "a circuit-tracer transcoder set": lambda f: (
        _any(f, "W_enc_*.safetensors")
        or (_any(f, "config.yaml") and _any(f, "layer_*.safetensors"))
    ),
    "a temporal SAE": lambda f: _any(f, "conf.yaml") and _any(f, "latest_ckpt.safetensors"),
    "a Qwen-Scope SAE": lambda f: _any(f, "layer*.sae.pt"),
    "a hook_z SAE (attn-saes-gpt2-small)": lambda f: _any(f, "*_cfg.json") and _any(f, "*.pt"),
}
_BY_TENSORS = {
    "encoder_linear.weight": "a Goodfire SAE",
    "W": "a Goodfire R1 SAE",
    "pre_bias": "an OpenAI GPT-2 SAE",
    "encoder.weight": "a bare encoder/decoder checkpoint (such as qresearch's)",
}


def family(folder: Path) -> str | None:
    """What a folder holds, if that is a known family without a loader."""
    for name, recognise in FAMILIES.items():
        if recognise(folder):
            return name
    for path in sorted([*folder.glob("*.pt"), *folder.glob("*.pth")])[:1]:
        try:
            tensors = open_tensors(path)
        except DictionaryError:
            return None
        return next((name for key, name in _BY_TENSORS.items() if key in tensors), None)
    return None
