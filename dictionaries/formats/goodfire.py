"""Goodfire's SAEs: one `.pt` or `.pth`, no config; the name tells model and layer ("…-SAE-l19").

Three layouts, told by their tensors: Llama 3 (encoder_linear and decoder_linear, ReLU), the
gpt-oss hackathon's TopK (decoder.weight, k in the file's name), and DeepSeek-R1 (one tied matrix
W [d_in, d_sae]; BatchTopK over a whole batch, neither k nor a threshold in the file). Not centred.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ..containers import open_tensors
from ..dictionary import Dictionary
from ..errors import DictionaryError
from ..info import Site
from ..weights import Weights
from ..whole import Dense, batch_topk
from .common import NOTHING, Given, assemble, name_of, number_after
from .tensor_file import Tensors

FORMAT = "goodfire"
_LLAMA = {"encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight"}
_TOPK = {"encoder_linear.weight", "encoder_linear.bias", "decoder.weight"}
_TIED = {"W", "b_enc", "b_dec"}
_OWNERS = {"Llama": "meta-llama", "DeepSeek": "deepseek-ai", "gpt-oss": "openai"}
_NO_THRESHOLD = (
    "this BatchTopK SAE was published without a threshold, so which features fire depends on the "
    "batch and cannot be read. Use the op 'add'."
)


def recognise(path: Path) -> bool:
    if path.suffix not in (".pt", ".pth"):
        return False
    names = set(open_tensors(path))
    return names == _TIED or any(
        known <= names and not names - known - {"decoder_linear.bias", "decoder.bias"}
        for known in (_LLAMA, _TOPK)
    )


def open(path: Path, id: str | None = None, given: Given = NOTHING) -> Dictionary:
    site, model = told_by_name(path)
    tensors = Tensors(path)
    k: int | None = None
    why_not, whole, architecture = "", None, "standard"
    if "W" in tensors:
        weights, architecture, why_not = _tied(tensors), "batchtopk", _NO_THRESHOLD
        if given.k is not None:
            whole = Dense(weights, activate=batch_topk(given.k), joint=True)
    else:
        weights = _linear(tensors)
        if "decoder.weight" in tensors:
            architecture, k = "topk", _k(path, given)
    return assemble(
        path,
        [path],
        weights,
        id=name_of(id, path.stem),
        format=FORMAT,
        architecture=architecture,
        site=site,
        model=model,
        k=k,
        why_not=why_not,
        whole=whole,
    )


def told_by_name(path: Path) -> tuple[Site, str | None]:
    """(site, model) of names like "Llama-3.1-8B-Instruct-SAE-l19.pth"; the folder's name helps."""
    names = (*path.absolute().parts[-5:-1], path.stem)
    layer = number_after("l", *names)
    if layer is None:
        raise DictionaryError(
            f"{path} does not tell where it was trained: it has no config, so keep its published "
            "name, such as Llama-3.1-8B-Instruct-SAE-l19.pth."
        )
    found = next((m for name in reversed(names) if (m := re.match(r"(.+)-SAE-l\d+", name))), None)
    base = found[1].rpartition("--")[2].removeprefix("Hackathon-") if found else ""
    owner = next((owner for start, owner in _OWNERS.items() if base.startswith(start)), None)
    return Site(layer, "resid_post"), f"{owner}/{base}" if owner else base or None


def _linear(tensors: Tensors) -> Weights:
    decoder = "decoder.weight" if "decoder.weight" in tensors else "decoder_linear.weight"
    bias = decoder.replace("weight", "bias")
    b_enc = tensors.per_feature("encoder_linear.bias")
    d_in = tensors.width("encoder_linear.weight", len(b_enc), axis=0)
    return Weights(
        enc=tensors.matrix("encoder_linear.weight", len(b_enc), d_in, axis=0),
        dec=tensors.matrix(decoder, len(b_enc), d_in, axis=1),
        b_dec=tensors.vector(bias, d_in) if bias in tensors else torch.zeros(d_in),
        gate=b_enc,
    )


def _tied(tensors: Tensors) -> Weights:
    b_enc, b_dec = tensors.per_feature("b_enc"), tensors.vector("b_dec")
    W = tensors.matrix("W", len(b_enc), len(b_dec), axis=1)
    return Weights(enc=W, dec=W, b_dec=b_dec, gate=b_enc)


def _k(path: Path, given: Given) -> int:
    k = given.k if given.k is not None else number_after("k", path.stem)
    if k is None:
        raise DictionaryError(
            f"{path} is a TopK SAE that does not say its k: keep its published name, such as "
            f"topk_sae_l15_exp16_k32.pt, or give k ({path.name}?k=32)."
        )
    return k
