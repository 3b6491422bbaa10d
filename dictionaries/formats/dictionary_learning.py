"""dictionary_learning and SAEBench: `config.json` + `ae.pt`, a plain state dict.

`dict_class` decides everything: the tensors' names, whether the input is centred, the activation.
nn.Linear weights lie transposed (encoder [d_sae, d_in], decoder [d_in, d_sae]); raw parameters do
not. Input normalisation was folded into the biases before saving, so raw activations go in. A
BatchTopK threshold of -1 means that none was ever estimated: the library then computes plain ReLU.
Earlier states of a training lie in `checkpoints/ae_<step>.pt`, saved in the same way: each is a
dictionary by itself, by the config of its folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from ..dictionary import Dictionary
from ..errors import DictionaryError
from ..info import Site
from ..per_feature import Constant, PerFeature, mapped
from ..weights import Weights
from ..whole import Dense
from .common import (
    NOTHING,
    Config,
    Given,
    assemble,
    declared,
    name_of,
    read_config,
    section,
    text,
    whole_number,
)
from .path_names import named
from .tensor_file import Tensors

FORMAT = "dictionary_learning"
_EARLIER = re.compile(r"ae_\d+\.pt")


@dataclass(frozen=True, slots=True)
class _Class:
    """What a `dict_class` calls its tensors and does with them."""

    architecture: str
    b_dec: str
    b_enc: str = "encoder.bias"
    W_enc: str = "encoder.weight"
    W_dec: str = "decoder.weight"
    centred: bool = True


_RAW = ("b_dec", "b_enc", "W_enc", "W_dec")
CLASSES = {
    "AutoEncoder": _Class("standard", "bias"),
    "AutoEncoderNew": _Class("standard", "decoder.bias", centred=False),
    "GatedAutoEncoder": _Class("gated", "decoder_bias", "gate_bias"),
    "AutoEncoderTopK": _Class("topk", "b_dec"),
    "BatchTopKSAE": _Class("batchtopk", "b_dec"),
    "MatryoshkaBatchTopKSAE": _Class("batchtopk", *_RAW),
    "JumpReluAutoEncoder": _Class("jumprelu", *_RAW, centred=False),
}
_HOOKS = {
    "resid_post": "resid_post",
    "resid_pre": "resid_pre",
    "mlp_out": "mlp_out",
    "attn_out": "attn_out",
    "attention_out": "attn_out",
}
_NO_THRESHOLD = (
    "this BatchTopK SAE was saved before its threshold was estimated, so which features fire "
    "depends on the batch and cannot be read. Use the op 'add'."
)


def recognise(path: Path) -> bool:
    if path.is_dir():
        return (path / "config.json").is_file() and (path / "ae.pt").is_file()
    folder = path.absolute().parent
    earlier = folder.name == "checkpoints" and _EARLIER.fullmatch(path.name)
    return bool(earlier) and (folder.parent / "config.json").is_file()


def open(place: Path, id: str | None = None, given: Given = NOTHING) -> Dictionary:
    """place: a trained folder, or a file of its `checkpoints`."""
    step = () if place.is_dir() else (place.stem,)
    trained = place.absolute().parents[1] if step else place
    path = trained / "config.json"
    config = read_config(path)
    trainer = section(config, "trainer")
    kind = _kind(trainer, path)
    site = _site(trainer, section(config, "buffer"), path)
    tensors = Tensors(place if step else trained / "ae.pt")
    b_dec, gate = tensors.vector(kind.b_dec), tensors.per_feature(kind.b_enc)
    d_in, d_sae = len(b_dec), len(gate)
    declared(trainer, "activation_dim", d_in, path)
    declared(trainer, "dict_size", d_sae, path)
    raw, gated = kind.W_enc == "W_enc", kind.architecture == "gated"
    threshold = _threshold(tensors, kind, d_sae)
    why_not = _NO_THRESHOLD if kind.architecture == "batchtopk" and threshold is None else ""
    weights = Weights(
        enc=tensors.matrix(kind.W_enc, d_sae, d_in, axis=int(raw)),
        dec=tensors.matrix(kind.W_dec, d_sae, d_in, axis=int(not raw)),
        b_dec=b_dec,
        gate=gate,
        offset=tensors.per_feature("mag_bias", d_sae) if gated else None,
        gain=mapped(tensors.per_feature("r_mag", d_sae), torch.exp) if gated else None,
        threshold=threshold,
        centred=kind.centred,
    )
    return assemble(
        place,
        [path, tensors.path],
        weights,
        id=name_of(id, *named(trained)[-2:], *step),
        format=FORMAT,
        architecture=kind.architecture,
        site=site,
        model=text(trainer.get("lm_name")),
        k=_k(tensors, trainer, path) if kind.architecture == "topk" else None,
        why_not=why_not,
        of_module=True,
        whole=Dense(weights) if why_not else None,
    )


def _kind(trainer: Config, path: Path) -> _Class:
    name = text(trainer.get("dict_class"))
    if name not in CLASSES:
        raise DictionaryError(
            f"{path}: the dict_class {name!r} is not opened; known are {', '.join(CLASSES)}."
        )
    return CLASSES[name]


def _site(trainer: Config, buffer: Config, path: Path) -> Site:
    name = trainer.get("submodule_name")
    found = re.fullmatch(r"(\w+?)_layer_(\d+)", name) if isinstance(name, str) else None
    if not found or found[1] not in _HOOKS:
        raise DictionaryError(
            f"{path}: the submodule {name!r} is not a place that can be steered; those are "
            f"{', '.join(_HOOKS)}, followed by _layer_<number>."
        )
    if buffer.get("io", "out") != "out":
        raise DictionaryError(
            f"{path}: the buffer's io is {buffer['io']!r}; only SAEs of a module's output ('out') "
            "can be steered."
        )
    return Site(int(found[2]), _HOOKS[found[1]])


def _threshold(tensors: Tensors, kind: _Class, d_sae: int) -> PerFeature | None:
    """None where there is none, or where it was never estimated (-1)."""
    if kind.architecture == "jumprelu":
        return tensors.per_feature("threshold", d_sae)
    if kind.architecture != "batchtopk" or "threshold" not in tensors:
        return None
    value = tensors.scalar("threshold")
    return Constant(d_sae, value) if value >= 0 else None


def _k(tensors: Tensors, trainer: Config, path: Path) -> int:
    """Older files have it in the config only."""
    return int(tensors.scalar("k")) if "k" in tensors else whole_number(trainer, "k", path)
