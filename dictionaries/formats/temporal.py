"""Temporal SAEs: part of each vector is predicted from those before it, the rest is TopK.

Two layouts: `conf.yaml` + `latest_ckpt.safetensors` (canrager/temporalSAEs: D [d_sae, d_in], b, E),
and SAELens' `architecture: temporal`. Their activations depend on the whole text before a token, so
features can be added along their directions, and not read. source: arXiv 2511.01836.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from ..dictionary import Dictionary
from ..errors import DictionaryError
from ..info import Site
from ..per_feature import Constant
from ..weights import Matrix, Weights
from .common import (
    NOTHING,
    Config,
    Given,
    assemble,
    declared,
    is_number,
    name_of,
    number_after,
    read_yaml,
    section,
    whole_number,
)
from .tensor_file import Tensors

FORMAT = "temporal"
_EPS = 1e-6
_WHY_NOT = (
    "the activations of this temporal SAE depend on the whole text before each token and cannot be "
    "read one token at a time. Use the op 'add'."
)
_MODELS = {"gemma-2-2B": "google/gemma-2-2b", "llama-3.1-8B": "meta-llama/Llama-3.1-8B"}


def recognise(folder: Path) -> bool:
    return (folder / "conf.yaml").is_file() and (folder / "latest_ckpt.safetensors").is_file()


def open(folder: Path, id: str | None = None, given: Given = NOTHING) -> Dictionary:
    path = folder / "conf.yaml"
    conf = read_yaml(path)
    config, parts = section(conf, "sae"), folder.absolute().parts
    layer = number_after("layer_", *parts[-3:])
    if layer is None:
        raise DictionaryError(
            f"{folder} does not tell its layer: keep it under its published path, such as "
            "gemma-2-2B/layer_12/temporal."
        )
    tensors = Tensors(folder / "latest_ckpt.safetensors")
    declared(section(conf, "llm"), "dimin", len(tensors.vector("b")), path)
    named = _Names("D", "b", "E", config.get("scaling_factor", 1.0))
    return _open(
        folder,
        config,
        tensors,
        named,
        id=name_of(id, *parts[-3:]),
        format=FORMAT,
        site=Site(layer, "resid_post"),
        model=_MODELS.get(parts[-3]),
        path=path,
    )


def open_saelens(
    folder: Path, config: Config, tensors: Tensors, id: str, site: Site, refused: str
) -> Dictionary:
    """SAELens' `architecture: temporal`, its config already flat. refused: see Info."""
    path = folder / "cfg.json"
    norm = config.get("normalize_activations", "none")
    if norm not in ("none", "constant_scalar_rescale"):
        raise DictionaryError(f"{path}: normalize_activations {norm!r} of a temporal SAE.")
    scaled = norm == "constant_scalar_rescale"
    factor = config.get("activation_normalization_factor", 1.0) if scaled else 1.0
    model = config.get("model_name")
    return _open(
        folder,
        config,
        tensors,
        _Names("W_dec", "b_dec", "W_enc", factor),
        id=id,
        format="saelens",
        site=site,
        model=model if isinstance(model, str) else None,
        path=path,
        refused=refused,
    )


@dataclass(frozen=True, slots=True)
class _Names:
    """What a layout calls the decoder, its bias and the encoder; and what inputs are scaled by."""

    dec: str
    b_dec: str
    enc: str
    factor: object


def _open(
    folder: Path,
    config: Config,
    tensors: Tensors,
    named: _Names,
    *,
    id: str,
    format: str,
    site: Site,
    model: str | None,
    path: Path,
    refused: str = "",
) -> Dictionary:
    b_dec, factor = tensors.vector(named.b_dec), named.factor
    d_in = len(b_dec)
    if not is_number(factor) or factor <= 0:
        raise DictionaryError(f"{path}: inputs are scaled by {factor!r}, not a number above 0.")
    factor = float(factor)
    if config.get("sae_diff_type", "topk") not in ("topk", "relu"):
        raise DictionaryError(f"{path}: sae_diff_type {config['sae_diff_type']!r} is not opened.")
    d_sae = max(tensors.sides(named.dec))
    dec = tensors.matrix(named.dec, d_sae, d_in, axis=0)
    tied = named.enc not in tensors
    enc = dec if tied else tensors.matrix(named.enc, d_sae, d_in, axis=1)
    topk = config.get("sae_diff_type", "topk") == "topk" and config.get("kval_topk") is not None
    k = whole_number(config, "kval_topk", path) if topk else None
    heads = whole_number(config, "n_heads", path)
    count = whole_number(config, "n_attn_layers", path)
    layers = []
    for i in range(count):  # however many: the first that is missing ends it
        layers.append(Attention(tensors, f"attn_layers.{i}.", d_sae))
        if layers[-1].check() % heads or d_sae % heads:
            raise DictionaryError(f"{path}: {heads} heads do not divide its attention.")
    weights = Weights(
        enc=enc,
        dec=dec,
        b_dec=b_dec / factor,
        gate=Constant(d_sae, 0.0),
        dec_scale=Constant(d_sae, 1 / factor),
    )
    return assemble(
        folder,
        [path, tensors.path],
        weights,
        id=id,
        format=format,
        architecture="temporal",
        site=site,
        model=model,
        k=k,
        why_not=_WHY_NOT,
        refused=refused,
        whole=Prefixed(enc, dec, b_dec, factor, k, heads, tuple(layers)),
    )


class Attention(NamedTuple):
    """One attention layer on disk, most of the file; the bottleneck's width is the file's own."""

    tensors: Tensors
    prefix: str
    d_sae: int

    def check(self) -> int:
        """The bottleneck's width. Raises DictionaryError for what is missing or misshapen."""
        for name, shape in self._shapes().items():
            self.tensors.check(self.prefix + name, *shape)
        return self._shapes()["k_ctx.bias"][0]

    def load(self) -> dict[str, Tensor]:
        """Weights and biases."""
        return {
            name: self.tensors.load(self.prefix + name, *shape)
            for name, shape in self._shapes().items()
        }

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        narrow = self.tensors.width(f"{self.prefix}k_ctx.weight", self.d_sae, axis=1)
        widths = {"k_ctx": narrow, "q_target": narrow, "v_ctx": self.d_sae, "c_proj": self.d_sae}
        return {
            **{f"{name}.weight": (width, self.d_sae) for name, width in widths.items()},
            **{f"{name}.bias": (width,) for name, width in widths.items()},
        }


@dataclass(frozen=True, slots=True)
class Prefixed:
    """What a temporal SAE computes of one sequence x [tokens, d_in].

    The activations are those of what is new at each token; the reconstruction has what was
    predicted as well.
    """

    enc: Matrix
    dec: Matrix
    b_dec: Tensor
    factor: float
    k: int | None
    heads: int
    layers: tuple[Attention, ...]
    joint: bool = True

    def __call__(self, dictionary: Dictionary, x: Tensor) -> tuple[Tensor, Tensor]:
        enc = self.enc.block(0, self.enc.features) / (4 * self.enc.width)
        dec = self.dec.block(0, self.dec.features)
        left = x.float() * self.factor - self.b_dec
        predicted = torch.zeros(len(x), len(dec))
        for stored in self.layers:
            layer = stored.load()
            now = torch.relu(left @ enc.T)
            before = torch.cat([torch.zeros_like(now[:1]), now[:-1]])
            codes = torch.relu(self._attend(layer, before, now))
            words = codes @ dec
            share = (words * left).sum(-1, keepdim=True) / (
                words.norm(dim=-1, keepdim=True) + _EPS
            ).pow(2)
            predicted += codes * share
            left = left - share * words
        new = torch.relu(left @ enc.T)
        if self.k is not None:
            kept = new.topk(self.k, dim=-1)
            new = torch.zeros_like(new).scatter(-1, kept.indices, kept.values)
        return new, ((new + predicted) @ dec + self.b_dec) / self.factor

    def _attend(self, layer: dict[str, Tensor], before: Tensor, now: Tensor) -> Tensor:
        """Causal attention from each token's codes to those one place earlier: [tokens, d_sae]."""

        def heads(name: str, z: Tensor) -> Tensor:
            made = linear(z, layer[f"{name}.weight"], layer[f"{name}.bias"])
            return made.view(len(z), self.heads, -1).transpose(0, 1)

        found = scaled_dot_product_attention(
            heads("q_target", now), heads("k_ctx", before), heads("v_ctx", before), is_causal=True
        )
        joined = found.transpose(0, 1).reshape(len(now), -1)
        return linear(joined, layer["c_proj.weight"], layer["c_proj.bias"])
