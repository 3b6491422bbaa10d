"""Attention SAEs by C. Kissane and R. Krzyzanowski: `<name>.pt` beside `<name>_cfg.json`.

W_enc [d_in, d_sae], W_dec [d_sae, d_in]; ReLU, centred, on the heads' outputs side by side as
TransformerLens has them by default: without the value bias, which it moves into the output's.
"""

from __future__ import annotations

from pathlib import Path

from ..dictionary import Dictionary
from ..weights import Weights
from .common import (
    NOTHING,
    Given,
    assemble,
    declared,
    lens_site,
    name_of,
    read_config,
    text,
)
from .tensor_file import Tensors

FORMAT = "hook_z"


def recognise(path: Path) -> bool:
    return path.suffix == ".pt" and _config(path).is_file()


def _config(path: Path) -> Path:
    return path.with_name(f"{path.stem}_cfg.json")


def open(path: Path, id: str | None = None, given: Given = NOTHING) -> Dictionary:
    config = read_config(_config(path))
    tensors = Tensors(path)
    b_dec, b_enc = tensors.vector("b_dec"), tensors.per_feature("b_enc")
    d_in, d_sae = len(b_dec), len(b_enc)
    declared(config, "act_size", d_in, _config(path))
    declared(config, "dict_size", d_sae, _config(path))
    site, refused = lens_site(config.get("act_name"), _config(path))
    weights = Weights(
        enc=tensors.matrix("W_enc", d_sae, d_in, axis=1),
        dec=tensors.matrix("W_dec", d_sae, d_in, axis=0),
        b_dec=b_dec,
        gate=b_enc,
        centred=True,
    )
    return assemble(
        path,
        [_config(path), path],
        weights,
        id=name_of(id, path.stem),
        format=FORMAT,
        architecture="standard",
        site=site,
        model=text(config.get("model_name")),
        refused=refused,
        less_value_bias=True,
    )
