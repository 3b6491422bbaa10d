"""Gemma Scope 2 (Gemma 3): `config.json` (sometimes missing) + `params.safetensors`.

JumpReLU, not centred, fed with raw activations. w_enc [d_in, d_sae], w_dec [d_sae, d_in]. The
folder's name tells the site where there is no config: `resid_post/layer_13_width_16k_l0_medium`.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..dictionary import Dictionary, Site
from ..errors import DictionaryError
from ..weights import Weights
from .common import Config, Tensors, assemble, declared, name_of, read_config, text

FORMAT = "gemma_scope_2"
_MODULES = {
    "output": "resid_post",
    "self_attn.o_proj.input": "hook_z",
    "post_feedforward_layernorm.output": "mlp_out",
}
_FOLDERS = {"resid_post": "resid_post", "attn_out": "hook_z", "mlp_out": "mlp_out"}
_WORDS = "|".join((*_FOLDERS, "transcoder", "crosscoder", "clt"))


def recognise(folder: Path) -> bool:
    return (folder / "params.safetensors").is_file() or bool(_layers(folder))


def open(folder: Path, id: str | None = None) -> Dictionary:
    path = folder / "config.json"
    config = read_config(path) if path.is_file() else {}
    if _layers(folder) or config.get("type", _word(folder)) in ("transcoder", "crosscoder", "clt"):
        raise DictionaryError(
            f"{folder} is a Gemma Scope 2 {config.get('type', 'multi-layer dictionary')}: it reads "
            "and writes different places, and only SAEs, which read and write the same place, can "
            "be steered."
        )
    site = _site(config, folder)
    tensors = Tensors(folder / "params.safetensors")
    if "affine_skip_connection" in tensors or config.get("affine_connection") is True:
        raise DictionaryError(f"{folder} has an affine skip connection: it is a transcoder.")
    b_dec, b_enc = tensors.vector("b_dec"), tensors.per_feature("b_enc")
    d_in, d_sae = len(b_dec), len(b_enc)
    declared(config, "width", d_sae, path)
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise DictionaryError(
            f"{path}: the architecture {config['architecture']!r} is not jump_relu."
        )
    weights = Weights(
        enc=tensors.matrix("w_enc", d_sae, d_in, axis=1),
        dec=tensors.matrix("w_dec", d_sae, d_in, axis=0),
        b_dec=b_dec,
        gate=b_enc,
        threshold=tensors.per_feature("threshold", d_sae),
    )
    model = text(config.get("model_name"))
    return assemble(
        folder,
        [path, tensors.path] if path.is_file() else [tensors.path],
        weights,
        id=name_of(id, *folder.absolute().parts[-2:]),
        format=FORMAT,
        architecture="jumprelu",
        site=site,
        model=model and model.replace("-v3", "-3"),
    )


def _layers(folder: Path) -> list[Path]:
    """The files of a dictionary that spans layers."""
    return list(folder.glob("params_layer_*.safetensors"))


def _word(folder: Path) -> str | None:
    """What the parent folder says it holds; `_all` only means that every layer is there."""
    found = re.fullmatch(rf"({_WORDS})(_all)?", folder.absolute().parent.name)
    return found[1] if found else None


def _site(config: Config, folder: Path) -> Site:
    read, written = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    if read is None:
        layer = re.match(r"layer_(\d+)_", folder.absolute().name)
        if layer and _word(folder) in _FOLDERS:
            return Site(int(layer[1]), _FOLDERS[_word(folder) or ""])
        raise DictionaryError(
            f"{folder} does not tell where it was trained: it has no config.json, and is not named "
            "like resid_post/layer_13_width_16k_l0_medium."
        )
    found = re.fullmatch(r"model\.(?:language_model\.)?layers\.(\d+)\.(.+)", str(read))
    if not found or found[2] not in _MODULES or written not in (None, read):
        raise DictionaryError(
            f"{folder / 'config.json'}: it reads {read!r} and writes {written!r}; what can be "
            f"steered reads and writes model.layers.<layer>.({' | '.join(_MODULES)})."
        )
    return Site(int(found[1]), _MODULES[found[2]])
