"""Qwen-Scope: `layer{N}.sae.pt` for every layer, and one `config.json` beside them.

W_enc [d_sae, d_in] and W_dec [d_in, d_sae], the other way round than SAELens has these names; not
centred. TopK: the model card keeps a negative pre-activation among the k largest, here it is
rectified (as SAELens does); with thousands of features the k largest are positive.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..dictionary import Dictionary
from ..errors import DictionaryError
from ..info import Site
from ..weights import Weights
from .common import (
    NOTHING,
    Config,
    Given,
    assemble,
    declared,
    name_of,
    read_config,
    text,
    whole_number,
)
from .path_names import named
from .tensor_file import Tensors

FORMAT = "qwen_scope"
_NAME = re.compile(r"layer(\d+)\.sae\.pt")


def recognise(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None


def open(path: Path, id: str | None = None, given: Given = NOTHING) -> Dictionary:
    beside = path.parent / "config.json"
    config = read_config(beside) if beside.is_file() else {}
    tensors = Tensors(path)
    b_dec, b_enc = tensors.vector("b_dec"), tensors.per_feature("b_enc")
    d_in, d_sae = len(b_dec), len(b_enc)
    declared(config, "d_model", d_in, beside)
    declared(config, "d_sae", d_sae, beside)
    if config.get("hook_point", "resid_post") != "resid_post":
        raise DictionaryError(
            f"{beside}: the hook_point {config['hook_point']!r} is not resid_post."
        )
    layer = _NAME.fullmatch(path.name)
    assert layer is not None
    repository = named(path)[-2]
    weights = Weights(
        enc=tensors.matrix("W_enc", d_sae, d_in, axis=0),
        dec=tensors.matrix("W_dec", d_sae, d_in, axis=1),
        b_dec=b_dec,
        gate=b_enc,
    )
    return assemble(
        path,
        [beside, path] if config else [path],
        weights,
        id=name_of(id, repository, f"layer{layer[1]}"),
        format=FORMAT,
        architecture="topk",
        site=Site(int(layer[1]), "resid_post"),
        model=text(config.get("base_model")),
        k=_k(config, given, path),
    )


def _k(config: Config, given: Given, path: Path) -> int:
    """From the config, from a person, or from the repository's name ("…-W32K-L0_50")."""
    if "k" in config:
        return whole_number(config, "k", path.parent / "config.json")
    told = re.search(r"L0_(\d+)", str(path.absolute().parent))
    if given.k is None and told is None:
        raise DictionaryError(
            f"{path} is a TopK SAE that does not say its k: keep its config.json beside it, or "
            f"give k ({path.name}?k=50)."
        )
    return given.k if given.k is not None else int(told[1]) if told else 0
