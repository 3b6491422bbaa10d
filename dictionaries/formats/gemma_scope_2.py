"""Gemma Scope 2 (Gemma 3): `config.json` (sometimes missing) + `params.safetensors`.

JumpReLU, not centred, fed with raw activations. w_enc [d_in, d_sae], w_dec [d_sae, d_out], and for
some transcoders affine_skip_connection [d_in, d_out]. The folder's name tells the site where there
is no config: `resid_post/layer_13_width_16k_l0_medium`. Transcoders read the MLP's normed input
with the norm's gain, unlike Gemma Scope 1's.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..dictionary import Dictionary
from ..errors import DictionaryError
from ..info import Site
from ..layered import Layered
from ..weights import Matrix, Weights
from ..whole import Dense
from . import gemma_scope_2_layers as several
from .common import (
    NOTHING,
    Config,
    Given,
    assemble,
    declared,
    name_of,
    read_config,
    reading,
    text,
)
from .path_names import named
from .tensor_file import Tensors

FORMAT = "gemma_scope_2"
_MODULES = {
    "output": "resid_post",
    "self_attn.o_proj.input": "hook_z",
    "post_feedforward_layernorm.output": "mlp_out",
}
_READ = "model.layers.{layer}.pre_feedforward_layernorm.output"
_FOLDERS = {
    "resid_post": "resid_post",
    "attn_out": "hook_z",
    "mlp_out": "mlp_out",
    "transcoder": "mlp_out",
}
_REPO = re.compile(r"gemma-scope-2-(\d+[mb]-(?:pt|it))")
_WORDS = "|".join((*_FOLDERS, "crosscoder", "clt"))


def recognise(folder: Path) -> bool:
    return (folder / "params.safetensors").is_file() or bool(several.files(folder))


def open(folder: Path, id: str | None = None, given: Given = NOTHING) -> Dictionary | Layered:
    path = folder / "config.json"
    config = read_config(path) if path.is_file() else {}
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise DictionaryError(
            f"{path}: the architecture {config['architecture']!r} is not jump_relu."
        )
    kind = config.get("type", _word(folder))
    id = name_of(id, *named(folder)[-2:])
    model = _model(config) or _told_by_path(folder)
    if several.files(folder):
        return several.open(folder, config, kind, id, model)
    if kind in ("crosscoder", "clt"):
        raise DictionaryError(f"{folder} is a {kind}, but holds no params_layer_<n>.safetensors.")
    transcoder = kind == "transcoder"
    site, reads = _site(config, folder, transcoder)
    tensors = Tensors(folder / "params.safetensors")
    weights, skip = _weights(tensors)
    declared(config, "width", weights.d_sae, path)
    if skip is not None and not transcoder:
        raise DictionaryError(f"{folder} has an affine skip connection, but is no transcoder.")
    return assemble(
        folder,
        [path, tensors.path] if path.is_file() else [tensors.path],
        weights,
        id=id,
        format=FORMAT,
        architecture=f"jumprelu{'_skip' if skip else ''}{'_transcoder' if transcoder else ''}",
        site=site,
        model=model,
        reads=reads if transcoder else "",
        why_not=reading(reads) if transcoder else "",
        whole=Dense(weights, skip=skip) if transcoder else None,
    )


def _weights(tensors: Tensors) -> tuple[Weights, Matrix | None]:
    """(the SAE's tensors, the skip connection seen by what comes out)."""
    b_dec, b_enc = tensors.vector("b_dec"), tensors.per_feature("b_enc")
    d_in, d_sae = len(b_dec), len(b_enc)
    weights = Weights(
        enc=tensors.matrix("w_enc", d_sae, d_in, axis=1),
        dec=tensors.matrix("w_dec", d_sae, d_in, axis=0),
        b_dec=b_dec,
        gate=b_enc,
        threshold=tensors.per_feature("threshold", d_sae),
    )
    if "affine_skip_connection" not in tensors:
        return weights, None
    return weights, tensors.matrix("affine_skip_connection", d_in, d_in, axis=1)


def _model(config: Config) -> str | None:
    """The published configs spell some models as no one else does."""
    model = text(config.get("model_name"))
    if model is None:
        return None
    model = _as_published(model.replace("-v3", "-3"))
    return model if "/" in model else f"google/{model}"


def _told_by_path(folder: Path) -> str | None:
    """By the repository's name, where there is no config."""
    found = [m for part in named(folder) if (m := _REPO.search(part))]
    return _as_published(f"google/gemma-3-{found[-1][1]}") if found else None


def _as_published(model: str) -> str:
    return model.replace("-270m-pt", "-270m")


def _word(folder: Path) -> str | None:
    """What the parent folder says it holds; `_all` only means that every layer is there."""
    found = re.fullmatch(rf"({_WORDS})(_all)?", folder.absolute().parent.name)
    return found[1] if found else None


def _site(config: Config, folder: Path, transcoder: bool) -> tuple[Site, str]:
    """(where it writes, what it reads)."""
    read, written = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    if read is None:
        layer = re.match(r"layer_(\d+)_", folder.absolute().name)
        if layer and _word(folder) in _FOLDERS:
            site = Site(int(layer[1]), _FOLDERS[_word(folder) or ""])
            return site, _READ.format(layer=site.layer)
        raise DictionaryError(
            f"{folder} does not tell where it was trained: it has no config.json, and is not named "
            "like resid_post/layer_13_width_16k_l0_medium."
        )
    at = written if transcoder else read
    found = re.fullmatch(r"model\.(?:language_model\.)?layers\.(\d+)\.(.+)", str(at))
    if not found or found[2] not in _MODULES or not (transcoder or written in (None, read)):
        raise DictionaryError(
            f"{folder / 'config.json'}: it reads {read!r} and writes {written!r}; what can be "
            f"steered reads and writes model.layers.<layer>.({' | '.join(_MODULES)})."
        )
    return Site(int(found[1]), _MODULES[found[2]]), str(read)
