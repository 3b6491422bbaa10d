"""One module per published family of SAE files: how to recognise it, how to open it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

from ..dictionary import Dictionary
from ..errors import DictionaryError
from . import (
    dictionary_learning,
    gemma_scope_1,
    gemma_scope_2,
    llama_scope,
    packed,
    refused,
    saelens,
    sparsify,
)

__all__ = ["FORMATS", "open_dictionary"]

_Open = Callable[[Path, str | None], Dictionary]

FORMATS: dict[str, tuple[Callable[[Path], bool], _Open]] = {
    family.FORMAT: (family.recognise, family.open)
    for family in (
        packed,
        saelens,
        sparsify,
        gemma_scope_1,
        gemma_scope_2,
        dictionary_learning,
        llama_scope,
    )
}
_LOOKED_FOR = (
    "cfg.json with sae_weights.safetensors (SAELens) or sae.safetensors (sparsify), params.npz "
    "(Gemma Scope 1), params.safetensors (Gemma Scope 2), config.json with ae.pt "
    "(dictionary_learning), hyperparams.json with checkpoints/final.safetensors (Llama Scope)"
)


def open_dictionary(
    path: Path | str, *, id: str | None = None, norm_scaling_factor: float | None = None
) -> Dictionary:
    """Open the dictionary in a folder (or the one a file lies in), whatever its family.

    id: its name on the wire; by default made of folder names. norm_scaling_factor: only for
    SAELens files that say `expected_average_only_in`; it can stand in cfg.json as well.

    Raises DictionaryError for what is missing, unknown, damaged or contradicts itself.
    """
    path = Path(path)
    if not path.exists():
        raise DictionaryError(f"there is no dictionary at {path}: no such file or folder.")
    folder = path if path.is_dir() else path.parent
    if folder.name == "checkpoints" and (folder.parent / "hyperparams.json").is_file():
        folder = folder.parent
    if norm_scaling_factor is not None and saelens.recognise(folder):
        return saelens.open(folder, id, norm_scaling_factor)
    for recognise, opened in FORMATS.values():
        if recognise(folder):
            return opened(folder, id)
    if known := refused.family(folder):
        raise DictionaryError(f"{folder} looks like {known}, a format that is not opened yet.")
    inside = _inside(folder)
    if inside:
        raise DictionaryError(
            f"{folder} is no dictionary itself but holds {len(inside)}: name one, such as "
            f"{', '.join(inside[:3])}."
        )
    raise DictionaryError(f"{folder} holds no SAE of a known format. Looked for: {_LOOKED_FOR}.")


def _inside(folder: Path) -> list[str]:
    """Dictionaries a few folders below, by relative path; only the first 2000 folders are seen."""
    found: list[str] = []
    for root, subs, _ in itertools.islice(os.walk(folder), 2000):
        inside = Path(root).relative_to(folder)
        subs.sort()
        if len(inside.parts) >= 4:
            subs.clear()
        if any(recognise(Path(root)) for recognise, _ in FORMATS.values()):
            found.append(str(inside))
    return found
