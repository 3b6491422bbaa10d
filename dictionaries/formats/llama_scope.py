"""Llama Scope and its successors, by the publisher's own rule (OpenMOSS Language-Model-SAEs).

Three layouts: `hyperparams.json` + `checkpoints/final.safetensors` (Llama Scope), and
`config.json` + `sae_weights.safetensors` with encoder.weight (R1-Distill) or W_E (llamascopium,
`sae_weights.pt` or `.dcp` too).
Inputs were scaled by s = sqrt(d) / (average length), and whether a feature fires is decided on
z |W_dec[j]|. Activations come out raw (Llama Scope) or in scaled units (the others), as published.
Transcoders (TC) are those whose hook_point_out is another than hook_point_in.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from ..dcp import files
from ..dictionary import Dictionary
from ..errors import DictionaryError
from ..per_feature import Constant, mapped
from ..weights import DecoderNorm, Weights
from ..whole import Dense
from .common import (
    NOTHING,
    Config,
    Given,
    assemble,
    declared,
    is_number,
    lens_site,
    name_of,
    number,
    read_config,
    reading,
    section,
    text,
    whole_number,
)
from .path_names import named
from .tensor_file import Tensors

FORMAT = "llama_scope"
_LATER = ("sae_weights.safetensors", "sae_weights.pt", "sae_weights.dcp")


def recognise(folder: Path) -> bool:
    first = (folder / "hyperparams.json").is_file() and _first_weights(folder).is_file()
    later = (folder / "config.json").is_file() and _later_weights(folder).exists()
    return first or later


def _first_weights(folder: Path) -> Path:
    return folder / "checkpoints" / "final.safetensors"


def _later_weights(folder: Path) -> Path:
    """Whichever there are; the first of the names if there are none."""
    places = [folder / name for name in _LATER]
    return next((place for place in places if place.exists()), places[0])


def open(folder: Path, id: str | None = None, given: Given = NOTHING) -> Dictionary:
    first = (folder / "hyperparams.json").is_file()
    path = folder / ("hyperparams.json" if first else "config.json")
    config = read_config(path)
    config = {"hook_point_out": config.get("hook_point_in"), **config}  # SAEs may say one only
    _only_plain(config, path)
    tensors = Tensors(_first_weights(folder) if first else _later_weights(folder))
    parts = _first(config, tensors, path) if first else _later(config, tensors, path)
    weights = parts["weights"]
    declared(config, "d_model", weights.d_in, path)
    declared(config, "d_sae", weights.d_sae, path)
    if config.get("hook_point_in") != config.get("hook_point_out"):
        reads = str(config.get("hook_point_in"))
        parts["whole"] = None if parts.get("why_not") else Dense(weights, k=parts.get("k"))
        parts |= {"reads": reads, "why_not": reading(reads)}
        parts["architecture"] += "_transcoder"
    site, refused = lens_site(config.get("hook_point_out"), path)
    model = folder / "lm_config.json"
    return assemble(
        folder,
        [path, *(files(tensors.path) if tensors.path.is_dir() else [tensors.path])],
        id=name_of(id, named(folder)[-1]),
        format=FORMAT,
        site=site,
        refused=refused,
        model=text(read_config(model).get("model_name")) if model.is_file() else None,
        **parts,
    )


def _only_plain(config: Config, path: Path) -> None:
    if config.get("sae_type", "sae") != "sae":
        raise DictionaryError(f"{path} describes a {config['sae_type']!r}, which is not opened.")
    for key in ("use_glu_encoder", "apply_decoder_bias_to_pre_encoder"):
        if config.get(key) is True:
            raise DictionaryError(f"{path}: {key} is not opened yet.")


def _first(config: Config, tensors: Tensors, path: Path) -> dict[str, Any]:
    """Llama Scope: f in raw units along unit decoder rows, one threshold for all features."""
    weights = _linear(tensors, config, path)
    d_in = weights.d_in
    lengths = section(config, "dataset_average_activation_norm")
    s_in = _scale(config, lengths.get("in"), d_in, path)
    s_out = _scale(config, lengths.get("out"), d_in, path)
    act = config.get("act_fn")
    if act not in ("relu", "jumprelu", "topk"):
        raise DictionaryError(f"{path}: the act_fn {act!r} is not relu, jumprelu or topk.")
    threshold = 0.0 if act == "relu" else number(config, "jump_relu_threshold", path)
    if act == "topk" and threshold <= 0:  # those published as topk run with a threshold, too
        raise DictionaryError(f"{path}: topk without a jump_relu_threshold is not opened yet.")
    by_length = config.get("sparsity_include_decoder_norm") is True
    ratio = s_in / s_out
    return {
        "architecture": "jumprelu",
        "weights": Weights(
            enc=weights.enc,
            dec=weights.dec,
            b_dec=weights.b_dec / s_out,
            gate=mapped(weights.gate, lambda b: b / s_in * (ratio if by_length else 1.0)),
            threshold=Constant(weights.d_sae, threshold),
            enc_scale=ratio if by_length else 1.0,
            dec_scale=None if by_length else Constant(weights.d_sae, ratio),
            decoder_norm=DecoderNorm.IN_ACTIVATIONS if by_length else DecoderNorm.IGNORED,
        ),
    }


def _later(config: Config, tensors: Tensors, path: Path) -> dict[str, Any]:
    """R1-Distill and llamascopium: f in scaled units, a threshold per feature, or TopK."""
    weights = _linear(tensors, config, path)
    d_in, d_sae = weights.d_in, weights.d_sae
    s_in, s_out = (
        _scale(config, tensors.scalar(length) if length in tensors else None, d_in, path)
        for end in ("in", "out")
        for length in [f"dataset_average_activation_norm.{config.get(f'hook_point_{end}')}"]
    )
    act, threshold, why_not = config.get("act_fn"), None, ""
    if act == "jumprelu":
        name = "log_jumprelu_threshold"
        prefix = "" if name in tensors else "activation_function."
        threshold = mapped(tensors.per_feature(prefix + name, d_sae), torch.exp)
    elif act == "batchtopk":
        why_not = (
            "this BatchTopK SAE was saved without a threshold, so which features fire depends on "
            "the batch and cannot be read. Use the op 'add'."
        )
    elif act not in ("relu", "topk"):
        raise DictionaryError(
            f"{path}: the act_fn {act!r} is not relu, jumprelu, topk or batchtopk."
        )
    by_length = config.get("sparsity_include_decoder_norm") is True
    return {
        "architecture": "standard" if act == "relu" else act,
        "k": whole_number(config, "top_k", path) if act == "topk" else None,
        "why_not": why_not,
        "weights": Weights(
            enc=weights.enc,
            dec=weights.dec,
            b_dec=weights.b_dec / s_out,
            gate=weights.gate,
            threshold=threshold,
            enc_scale=s_in,
            dec_scale=Constant(d_sae, 1 / s_out),
            decoder_norm=DecoderNorm.IN_GATE if by_length else DecoderNorm.IGNORED,
        ),
    }


def _linear(tensors: Tensors, config: Config, path: Path) -> Weights:
    """The four tensors, under either set of names, as stored. With `use_decoder_bias: false` there
    is no decoder bias in the file, and `decode` adds none.
    """
    if "W_E" in tensors:
        names, axis = ("W_E", "W_D", "b_E", "b_D"), 1
    else:
        names, axis = ("encoder.weight", "decoder.weight", "encoder.bias", "decoder.bias"), 0
    b_enc = tensors.per_feature(names[2])
    if config.get("use_decoder_bias") is not False:
        b_dec = tensors.vector(names[3])
    elif names[3] in tensors:
        raise DictionaryError(
            f"{path} says use_decoder_bias false, but {tensors.path} has {names[3]!r}: config and "
            "weights do not belong together."
        )
    else:
        b_dec = torch.zeros(tensors.width(names[1], len(b_enc), axis=1 - axis))
    return Weights(
        enc=tensors.matrix(names[0], len(b_enc), len(b_dec), axis=axis),
        dec=tensors.matrix(names[1], len(b_enc), len(b_dec), axis=1 - axis),
        b_dec=b_dec,
        gate=b_enc,
    )


def _scale(config: Config, length: object, d_in: int, path: Path) -> float:
    """sqrt(d) / the average length of the vectors it was trained on; 1 if it is folded in."""
    norm = config.get("norm_activation")
    if norm in ("inference", "none", None):
        return 1.0
    if norm != "dataset-wise":
        raise DictionaryError(
            f"{path}: norm_activation {norm!r} is not dataset-wise, inference or none."
        )
    if not is_number(length) or length <= 0:
        raise DictionaryError(
            f"{path} says that inputs were scaled by their average length, but no "
            f"dataset_average_activation_norm is given (found {length!r})."
        )
    return math.sqrt(d_in) / length
