"""GGUF files by hand, as `gguf.GGUFWriter` lays them out (docs/gguf.md of ggml)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VECTOR = {"general.architecture": "controlvector", "controlvector.model_hint": "llama"}
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 30, torch.int32: 26}


def text(word: str) -> bytes:
    return struct.pack("<Q", len(word.encode())) + word.encode()


def value(said: Any) -> bytes:
    """A word of metadata: its type and itself. A list is an array of strings."""
    match said:
        case str():
            return struct.pack("<I", 8) + text(said)
        case list():
            return struct.pack("<IIQ", 9, 8, len(said)) + b"".join(map(text, said))
        case float():
            return struct.pack("<If", 6, said)
        case _:
            return struct.pack("<II", 4, said)


def head(words: Mapping[str, Any], tensors: int, version: int = 3) -> bytes:
    """Up to the first tensor's entry."""
    said = b"".join(text(key) + value(word) for key, word in words.items())
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(words)) + said


def entry(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


def write(
    path: Path, tensors: Mapping[str, Tensor], words: Mapping[str, Any] = VECTOR, version: int = 3
) -> Path:
    to, entries, data = int(words.get("general.alignment", 32)), b"", b""
    for name, tensor in tensors.items():
        entries += entry(name, tuple(tensor.shape), TYPES[tensor.dtype], len(data))
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        data += raw + b"\0" * (-len(raw) % to)
    whole = head(words, len(tensors), version) + entries
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(whole + b"\0" * (-len(whole) % to) + data)
    return path
