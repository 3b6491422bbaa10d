"""Gemma Scope 2's crosscoders and cross-layer transcoders: `params_layer_{i}.safetensors`.

File i: w_enc [d, d_sae of a layer], w_dec [d_sae of a layer, layers written, d], b_dec of layer i,
and with `affine` a skip connection [d_in, d_out]. config.json's width counts all layers.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..edits import Norm
from ..errors import DictionaryError
from ..info import Info, Site
from ..layered import Layered, Part
from ..weights import Weights
from .common import Config, declared, text
from .cross_layer import SEVERAL
from .revision import revision
from .tensor_file import Tensors


def files(folder: Path) -> list[Path]:
    """Of the layers, in order."""
    found = folder.glob("params_layer_*.safetensors")
    return sorted(found, key=lambda path: (len(path.name), path.name))


def open(folder: Path, config: Config, kind: object, id: str, model: str | None) -> Layered:
    parts = [_part(path, i, len(files(folder))) for i, path in enumerate(files(folder))]
    shapes = {(part.weights.d_sae, len(part.weights.b_dec)) for part in parts}
    if len(shapes) != 1:
        raise DictionaryError(f"{folder}: its layers have different shapes: {sorted(shapes)}.")
    ((d_sae, d_model),) = shapes
    declared(config, "width", d_sae * len(parts), folder / "config.json")
    crosscoder = kind == "crosscoder"
    layers = _layers(config, folder, len(parts))
    info = Info(
        id=id,
        format="gemma_scope_2",
        architecture=f"jumprelu_{'crosscoder' if crosscoder else 'clt'}",
        site=Site(layers[0], "resid_post" if crosscoder else "mlp_out"),
        d_in=d_model,
        d_sae=d_sae,
        norm=Norm.NONE,
        k=None,
        model=model,
        revision=revision(files(folder)),
        reads=text(config.get("hf_hook_point_in")) or "",
        layers=layers,
        refused=SEVERAL.format(
            path=folder, what="crosscoder" if crosscoder else "cross-layer transcoder"
        ),
    )
    return Layered(info, folder, parts)


def _part(path: Path, i: int, layers: int) -> Part:
    tensors = Tensors(path)
    b_enc, b_dec = tensors.per_feature("b_enc"), tensors.vector("b_dec")
    d_sae, d = len(b_enc), len(b_dec)
    skip = "affine_skip_connection"
    weights = Weights(
        enc=tensors.matrix("w_enc", d_sae, d, axis=1),
        dec=tensors.stack("w_dec", d_sae, layers, d),
        b_dec=b_dec,
        gate=b_enc,
        threshold=tensors.per_feature("threshold", d_sae),
    )
    return Part(
        weights, range(layers), tensors.matrix(skip, d, d, axis=1) if skip in tensors else None
    )


def _layers(config: Config, folder: Path, count: int) -> tuple[int, ...]:
    """From the hook ("model.layers.{7,13,17,22}.output") or the folder ("layer_7_13_17_22_…")."""
    hook = re.search(r"\{([\d,]+)\}", str(config.get("hf_hook_point_in")))
    named = re.match(r"layer((?:_\d+)+)_width", folder.absolute().name)
    told = hook or named
    layers = tuple(map(int, re.findall(r"\d+", told[1]))) if told else tuple(range(count))
    if len(layers) != count:
        raise DictionaryError(
            f"{folder} names {len(layers)} layers but holds {count} files params_layer_<n>: some "
            "are missing. Download it again."
        )
    return layers
