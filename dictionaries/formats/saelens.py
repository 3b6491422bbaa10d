"""SAELens' own format: `cfg.json` + `sae_weights.safetensors`, all versions.

Configs are flat before v6 (and call the hook `hook_point` before v3), nested in `metadata` since.
W_enc is [d_in, d_sae], W_dec [d_sae, d_in]. Training checkpoints of BatchTopK SAEs, which SAELens
itself cannot open for inference, hold one `topk_threshold` instead of a vector.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from ..dictionary import Dictionary
from ..edits import Norm
from ..errors import DictionaryError
from ..per_feature import Constant, PerFeature, mapped
from ..weights import DecoderNorm, Weights
from .common import (
    Config,
    Tensors,
    assemble,
    declared,
    lens_site,
    name_of,
    read_config,
    section,
    text,
    whole_number,
)

FORMAT = "saelens"
OPENED = ("standard", "jumprelu", "topk", "gated", "batchtopk", "matryoshka_batchtopk")
ADDED_ONLY = {
    "abstopk": "its features are signed and picked by size among all of them",
    "matching_pursuit": "its activations come from an iteration over all features",
}


def recognise(folder: Path) -> bool:
    return (folder / "cfg.json").is_file() and (folder / "sae_weights.safetensors").is_file()


def open(
    folder: Path, id: str | None = None, norm_scaling_factor: float | None = None
) -> Dictionary:
    """norm_scaling_factor: for `expected_average_only_in` SAEs, whose files lack it."""
    path = folder / "cfg.json"
    config = _flat(read_config(path))
    tensors = Tensors(folder / "sae_weights.safetensors")
    architecture = _architecture(config, path)
    b_dec = tensors.vector("b_dec")
    d_in, d_sae = len(b_dec), _features(tensors, architecture)
    declared(config, "d_in", d_in, path)
    declared(config, "d_sae", d_sae, path)
    norm, scale = _norm(config, norm_scaling_factor, path)
    gate, offset, gain = _biases(tensors, architecture, d_sae)
    why_not = ""
    if architecture in ADDED_ONLY:
        why_not = (
            f"the activations of this {architecture} SAE cannot be read feature by feature: "
            f"{ADDED_ONLY[architecture]}. Use the op 'add'."
        )
    weights = Weights(
        enc=None if why_not else tensors.matrix("W_enc", d_sae, d_in, axis=1),
        dec=tensors.matrix("W_dec", d_sae, d_in, axis=0),
        b_dec=b_dec / scale,
        gate=gate,
        offset=offset,
        gain=gain,
        threshold=_threshold(tensors, architecture, d_sae),
        centred=config.get("apply_b_dec_to_input", True) is not False,
        mean_free=section(config, "model_from_pretrained_kwargs").get("center_writing_weights")
        is True,
        enc_scale=scale,
        dec_scale=_finetuned(tensors, d_sae, scale),
        decoder_norm=DecoderNorm.IN_ACTIVATIONS
        if config.get("rescale_acts_by_decoder_norm") is True
        else DecoderNorm.IGNORED,
    )
    return assemble(
        folder,
        [path, tensors.path],
        weights,
        id=name_of(id, folder.absolute().name),
        format=FORMAT,
        architecture=architecture,
        site=lens_site(config.get("hook_name", config.get("hook_point")), path),
        model=text(config.get("model_name")),
        norm=norm,
        k=whole_number(config, "k", path) if architecture == "topk" else None,
        why_not=why_not,
    )


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """One level, whatever the version; TopK of old configs under its new names."""
    flat = {**section(config, "metadata"), **config}
    if text(flat.get("activation_fn_str", flat.get("activation_fn"))) == "topk":
        flat = {**flat, **section(flat, "activation_fn_kwargs"), "architecture": "topk"}
    return flat


def _architecture(config: Config, path: Path) -> str:
    architecture = config.get("architecture", "standard")
    if "transcoder" in str(architecture):
        raise DictionaryError(
            f"{path} describes a {architecture}: it reads one place and writes another, and only "
            "SAEs, which read and write the same place, can be steered."
        )
    if not isinstance(architecture, str) or architecture not in (*OPENED, *ADDED_ONLY):
        raise DictionaryError(
            f"{path}: the architecture {architecture!r} is not opened yet; known are "
            f"{', '.join((*OPENED, *ADDED_ONLY))}."
        )
    activation = text(config.get("activation_fn_str", config.get("activation_fn"))) or "relu"
    if activation not in ("relu", "topk"):
        raise DictionaryError(f"{path}: the activation {activation!r} is not relu or topk.")
    if config.get("hook_head_index", config.get("hook_point_head_index")) is not None:
        raise DictionaryError(f"{path}: an SAE of a single attention head is not opened yet.")
    return architecture


def _features(tensors: Tensors, architecture: str) -> int:
    if architecture == "matching_pursuit":
        return tensors.shape("W_dec")[0]
    return len(tensors.per_feature("b_gate" if architecture == "gated" else "b_enc"))


def _biases(
    tensors: Tensors, architecture: str, d_sae: int
) -> tuple[PerFeature, PerFeature | None, PerFeature | None]:
    """(gate, offset, gain) of Weights."""
    if architecture == "gated":
        gain = mapped(tensors.per_feature("r_mag", d_sae), torch.exp)
        return tensors.per_feature("b_gate", d_sae), tensors.per_feature("b_mag", d_sae), gain
    if architecture == "matching_pursuit":
        return Constant(d_sae, 0.0), None, None
    return tensors.per_feature("b_enc", d_sae), None, None


def _threshold(tensors: Tensors, architecture: str, d_sae: int) -> PerFeature | None:
    if architecture == "jumprelu":
        return tensors.per_feature("threshold", d_sae)
    if architecture in ("batchtopk", "matryoshka_batchtopk"):
        return Constant(d_sae, tensors.scalar("topk_threshold"))
    return None


def _finetuned(tensors: Tensors, d_sae: int, scale: float) -> PerFeature:
    """The factor on each decoder row, which some old checkpoints were finetuned with, by scale."""
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in tensors:
            return mapped(tensors.per_feature(name, d_sae), lambda factor: factor / scale)
    return Constant(d_sae, 1 / scale)


def _norm(config: Config, factor: float | None, path: Path) -> tuple[Norm, float]:
    """(what is done to each token, the constant factor its inputs were multiplied by)."""
    said = config.get("normalize_activations", "none")
    if said in (True, False, None):  # before v3
        said = "expected_average_only_in" if said else "none"
    if said in list(Norm):
        return Norm(said), 1.0
    if said != "expected_average_only_in":
        raise DictionaryError(
            f"{path}: normalize_activations {said!r} is not opened yet; known are "
            f"{', '.join(Norm)} and expected_average_only_in."
        )
    factor = config.get("norm_scaling_factor") if factor is None else factor
    if not isinstance(factor, int | float) or not (math.isfinite(factor) and factor > 0):
        raise DictionaryError(
            f"{path} says expected_average_only_in: its inputs were multiplied by a factor that "
            "the files do not hold, and without it every activation would be wrong. Add "
            '"norm_scaling_factor": sqrt(d_in) / (mean length of the residual vectors) to '
            "cfg.json; SAELens' registry lists it for published SAEs."
        )
    return Norm.NONE, float(factor)
