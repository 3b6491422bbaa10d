"""One module per published family of SAE files: how to recognise it, how to open it."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path
from typing import Protocol

from ..dictionary import Dictionary
from ..errors import DictionaryError
from ..hub_help import WEIGHTS
from ..layered import Layered
from . import (
    circuit_tracer,
    control_vector,
    cross_layer,
    dictionary_learning,
    directions,
    gemma_scope_1,
    gemma_scope_2,
    goodfire,
    hook_z,
    llama_scope,
    openai,
    packed,
    qresearch,
    qwen_scope,
    saelens,
    sparsify,
    temporal,
)
from .common import Given

__all__ = ["FORMATS", "Coder", "open_coder", "open_dictionary"]

Coder = Dictionary | Layered


class _Family(Protocol):
    FORMAT: str

    def recognise(self, path: Path, /) -> bool: ...

    def open(self, path: Path, id: str | None = None, given: Given = ..., /) -> Coder: ...


# A folder is one dictionary.
_FOLDERS: tuple[_Family, ...] = (
    packed,
    directions,
    saelens,
    sparsify,
    gemma_scope_1,
    gemma_scope_2,
    dictionary_learning,
    llama_scope,
    cross_layer,
    temporal,
)
# A file is one dictionary; a folder holds one for every layer.
_FILES: tuple[_Family, ...] = (
    control_vector,
    dictionary_learning,
    qwen_scope,
    circuit_tracer,
    hook_z,
    openai,
    goodfire,
    qresearch,
)
FORMATS: dict[str, _Family] = {family.FORMAT: family for family in (*_FOLDERS, *_FILES)}
_WEIGHTS = (".safetensors", ".npz", ".pt", ".pth", ".gguf")
_LOOKED_FOR = (
    "cfg.json with sae_weights.safetensors (SAELens) or sae.safetensors (sparsify), params.npz "
    "(Gemma Scope 1), params.safetensors or params_layer_<n>.safetensors (Gemma Scope 2), "
    "config.json with ae.pt (dictionary_learning), or with sae_weights.safetensors, .pt or .dcp "
    "(llamascopium), hyperparams.json with checkpoints/final.safetensors (Llama Scope), conf.yaml "
    "with latest_ckpt.safetensors (temporal), W_enc_<n>.safetensors or layer_<n>.safetensors "
    "(circuit-tracer), layer<n>.sae.pt (Qwen-Scope), a .pt or .pth file of Goodfire's, OpenAI's, "
    "qresearch's or with a _cfg.json beside it (hook_z), directions.json with "
    "directions.safetensors (vectors of your own), a .gguf of llama.cpp's or repeng's (control "
    "vectors)"
)


def open_dictionary(
    path: Path | str,
    *,
    id: str | None = None,
    norm_scaling_factor: float | None = None,
    k: int | None = None,
    layer: int | None = None,
) -> Dictionary:
    """Open a dictionary to steer with: `open_coder`, less those that nothing can be steered with.

    Raises DictionaryError, also with the reason why one cannot be steered with.
    """
    coder = open_coder(path, id=id, norm_scaling_factor=norm_scaling_factor, k=k, layer=layer)
    if isinstance(coder, Layered) or coder.info.refused:
        raise DictionaryError(coder.info.refused)
    return coder


def open_coder(
    path: Path | str,
    *,
    id: str | None = None,
    norm_scaling_factor: float | None = None,
    k: int | None = None,
    layer: int | None = None,
) -> Coder:
    """Open the dictionary in a folder (or the one a file is or lies in), whatever its family.

    id: its name on the wire; by default made of folder names. norm_scaling_factor: only for
    SAELens files that say `expected_average_only_in`; it can stand in cfg.json as well. k: only
    for TopK files that do not say it. layer: only for control vectors, which have many.

    Raises DictionaryError for what is missing, unknown, damaged or contradicts itself, and for a
    number that was given in vain.
    """
    path = Path(path)
    if not path.exists():
        raise DictionaryError(f"there is no dictionary at {path}: no such file or folder.")
    given = Given(norm_scaling_factor, k, layer)
    coder = _opened(path, id, given)
    given.all_read(coder.path)
    return coder


def _opened(path: Path, id: str | None, given: Given) -> Coder:
    folder = path if path.is_dir() else path.parent
    if folder.suffix == ".dcp" or (
        folder.name == "checkpoints" and (folder.parent / "hyperparams.json").is_file()
    ):
        folder = folder.parent
    whole = next((family for family in _FOLDERS if family.recognise(folder)), None)
    other = path.is_file() and path.suffix in _WEIGHTS and not WEIGHTS.search(path.as_posix())
    if whole and not other:
        return whole.open(folder, id, given)
    single = _single(folder) if path.is_dir() else [path]
    if len(single) == 1:
        for family in _FILES:
            if family.recognise(single[0]):
                return family.open(single[0], id, given)
    if whole:
        raise DictionaryError(
            f"{path} is not the weights of the dictionary in {folder}, and none by itself: name "
            "the folder, or move the file to one of its own, under the name that its format has."
        )
    circuit_tracer.refuse_pointers(folder)
    inside = [file.name for file in single] if len(single) > 1 else _inside(folder)
    if inside:
        raise DictionaryError(
            f"{folder} is no dictionary itself but holds {len(inside)}: name one, such as "
            f"{', '.join(inside[:3])}."
        )
    raise DictionaryError(f"{folder} holds no SAE of a known format. Looked for: {_LOOKED_FOR}.")


def _single(folder: Path) -> list[Path]:
    """Files of a folder that are a dictionary each.

    Files of one kind are alike: one is tried, and two more lest the first is the damaged one.
    """
    found: list[Path] = []
    for kind in ("*.pt", "*.pth", "layer_*.safetensors", "*.gguf"):
        files = sorted(folder.glob(kind))
        if any(_is_one(file) for file in files[:3]):
            found += files
    return found


def _is_one(file: Path) -> bool:
    with contextlib.suppress(DictionaryError):  # a damaged file is told when it is named
        return any(family.recognise(file) for family in _FILES)
    return False


def _inside(folder: Path) -> list[str]:
    """Dictionaries a few folders below, by relative path; only the first 2000 folders are seen."""
    found: list[str] = []
    for root, subs, _ in itertools.islice(os.walk(folder), 2000):
        inside = Path(root).relative_to(folder)
        subs.sort()
        if len(inside.parts) >= 4:
            subs.clear()
        if any(family.recognise(Path(root)) for family in _FOLDERS):
            found.append(str(inside))
        elif root != str(folder):
            found += [str(inside / file.name) for file in _single(Path(root))]
    return found
