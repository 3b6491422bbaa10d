"""SAELens' own format: `cfg.json` + `sae_weights.safetensors`, all versions.

Configs are flat before v6 (and call the hook `hook_point` before v3), nested in `metadata` since.
W_enc is [d_in, d_sae], W_dec [d_sae, d_out], W_skip of skip transcoders [d_out, d_in]. Training
checkpoints of BatchTopK SAEs, which SAELens itself cannot open for inference, hold one
`topk_threshold` instead of a vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..dictionary import Dictionary
from ..edits import Norm
from ..errors import DictionaryError
from ..per_feature import Constant, PerFeature, mapped
from ..weights import DecoderNorm, Weights
from ..whole import Dense, Pursuit, Whole, abs_topk
from . import temporal
from .common import (
    NOTHING,
    Config,
    Given,
    assemble,
    declared,
    lens_site,
    name_of,
    number,
    of_module,
    read_config,
    reading,
    section,
    text,
    whole_number,
)
from .path_names import named
from .saelens_known import overrides
from .saelens_norm import norm_and_scale
from .tensor_file import Tensors

FORMAT = "saelens"
TRANSCODERS = (
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)
OPENED = ("standard", "jumprelu", "topk", "gated", "batchtopk", "matryoshka_batchtopk")
ADDED_ONLY = {
    "abstopk": "its features are signed and picked by size among all of them",
    "matching_pursuit": "its activations come from an iteration over all features",
}


def recognise(folder: Path) -> bool:
    return (folder / "cfg.json").is_file() and (folder / "sae_weights.safetensors").is_file()


def open(folder: Path, id: str | None = None, given: Given = NOTHING) -> Dictionary:
    path = folder / "cfg.json"
    config = _flat(read_config(path))
    config = {**config, **overrides(folder)}
    tensors = Tensors(folder / "sae_weights.safetensors")
    architecture = _architecture(config, path)
    id = name_of(id, named(folder)[-1])
    site, refused = _site(config, path)
    if architecture == "temporal":
        return temporal.open_saelens(folder, config, tensors, id, site, refused)
    transcodes = architecture in TRANSCODERS
    norm, scale = norm_and_scale(config, given, path)
    if scale != 1.0 and (transcodes or architecture == "matching_pursuit"):
        raise DictionaryError(f"{path}: a {architecture} with scaled inputs is not opened yet.")
    d_sae = _features(tensors, architecture)
    declared(config, "d_sae", d_sae, path)
    weights = _weights(config, tensors, architecture, d_sae, scale)
    d_in = weights.d_in if weights.enc is None else weights.enc.width
    declared(config, "d_in", d_in, path)
    reads, why_not = "", ""
    if transcodes:
        reads = str(config.get("hook_name", config.get("hook_point")))
        why_not = reading(reads)
        declared(config, "d_out", weights.d_in, path)
    if architecture in ADDED_ONLY:
        why_not = (
            f"the activations of this {architecture} SAE cannot be read feature by feature: "
            f"{ADDED_ONLY[architecture]}. Use the op 'add'."
        )
    return assemble(
        folder,
        [path, tensors.path],
        weights,
        id=id,
        format=FORMAT,
        architecture=architecture,
        site=site,
        model=text(config.get("model_name")),
        norm=Norm.NONE if transcodes else norm,
        k=whole_number(config, "k", path) if architecture in ("topk", "abstopk") else None,
        d_in=d_in if transcodes else None,
        reads=reads,
        why_not=why_not,
        of_module=of_module(_written(config)),
        refused=refused,
        whole=_whole(config, tensors, weights, norm, path) if why_not else None,
    )


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """One level, whatever the version; TopK of old configs under its new names."""
    flat = {**section(config, "metadata"), **config}
    if text(flat.get("activation_fn_str", flat.get("activation_fn"))) == "topk":
        flat = {**flat, **section(flat, "activation_fn_kwargs"), "architecture": "topk"}
    return flat


def _architecture(config: Config, path: Path) -> str:
    architecture = config.get("architecture", "standard")
    known = (*OPENED, *ADDED_ONLY, *TRANSCODERS, "temporal")
    if not isinstance(architecture, str) or architecture not in known:
        raise DictionaryError(
            f"{path}: the architecture {architecture!r} is not opened yet; known are "
            f"{', '.join(known)}."
        )
    activation = text(config.get("activation_fn_str", config.get("activation_fn"))) or "relu"
    if activation not in ("relu", "topk"):
        raise DictionaryError(f"{path}: the activation {activation!r} is not relu or topk.")
    return architecture


def _written(config: Config) -> object:
    return config.get("hook_name_out") or config.get("hook_name", config.get("hook_point"))


def _site(config: Config, path: Path) -> tuple[Any, str]:
    """(where it writes, why that cannot be steered)."""
    site, refused = lens_site(_written(config), path)
    if config.get("hook_head_index", config.get("hook_point_head_index")) is not None:
        refused = f"{path} is an SAE of a single attention head, which cannot be steered yet."
    return site, refused


def _weights(
    config: Config, tensors: Tensors, architecture: str, d_sae: int, scale: float
) -> Weights:
    b_dec = tensors.vector("b_dec")
    d_out = len(b_dec)
    gate, offset, gain = _biases(tensors, architecture, d_sae)
    centred = config.get("apply_b_dec_to_input", True) is not False
    pursuit = architecture == "matching_pursuit"
    enc = None
    if not pursuit:
        d_in = tensors.width("W_enc", d_sae, axis=1) if "transcoder" in architecture else d_out
        enc = tensors.matrix("W_enc", d_sae, d_in, axis=1)
    return Weights(
        enc=enc,
        dec=tensors.matrix("W_dec", d_sae, d_out, axis=0),
        b_dec=torch.zeros(d_out) if pursuit and not centred else b_dec / scale,
        gate=gate,
        offset=offset,
        gain=gain,
        threshold=_threshold(tensors, architecture, d_sae),
        centred=centred and "transcoder" not in architecture,
        mean_free=section(config, "model_from_pretrained_kwargs").get("center_writing_weights")
        is True,
        enc_scale=scale,
        dec_scale=_finetuned(tensors, d_sae, scale),
        decoder_norm=DecoderNorm.IN_ACTIVATIONS
        if config.get("rescale_acts_by_decoder_norm") is True
        else DecoderNorm.IGNORED,
    )


def _whole(config: Config, tensors: Tensors, weights: Weights, norm: Norm, path: Path) -> Whole:
    """What computes the activations that single rows do not tell."""
    if weights.enc is None:
        residual = number({"residual_threshold": 1e-2, **config}, "residual_threshold", path)
        steps = config.get("max_iterations")
        return Pursuit(
            weights.b_dec,
            norm,
            residual,
            weights.d_in if steps is None else whole_number(config, "max_iterations", path),
            config.get("stop_on_duplicate_support", True) is not False,
        )
    if config.get("architecture") == "abstopk":
        return Dense(weights, norm, activate=abs_topk(whole_number(config, "k", path)))
    skip = None
    if "skip" in str(config.get("architecture")):
        skip = tensors.matrix("W_skip", weights.d_in, weights.enc.width, axis=0)
    return Dense(weights, norm, skip=skip)


def _features(tensors: Tensors, architecture: str) -> int:
    if architecture == "matching_pursuit":
        return tensors.sides("W_dec")[0]
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
    if architecture.startswith("jumprelu"):
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
