"""OpenAI's GPT-2 small autoencoders: `{location}/autoencoders/{layer}.pt`.

encoder.weight [d_sae, d_in], decoder.weight [d_in, d_sae], centred by pre_bias. The state dict says
its activation: TopK ones (v5) layer-normalise each vector, ReLU ones (v1, v4) do not.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..containers import open_tensors, torch_words
from ..dictionary import Dictionary
from ..edits import Norm
from ..errors import DictionaryError
from ..info import Site
from ..weights import Weights
from .common import NOTHING, Given, assemble, name_of, section, whole_number
from .tensor_file import Tensors

FORMAT = "openai"
_LOCATIONS = {
    "resid_post_mlp": "resid_post",
    "resid_post_attn": "resid_mid",
    "resid_delta_mlp": "mlp_out",
    "resid_delta_attn": "attn_out",
    "mlp_post_act": "mlp.hook_post",
}


def recognise(path: Path) -> bool:
    return path.suffix == ".pt" and {"pre_bias", "latent_bias"} <= set(open_tensors(path))


def open(path: Path, id: str | None = None, given: Given = NOTHING) -> Dictionary:
    location, site = _told_by_path(path)
    words = torch_words(path)
    activation, rest = words.get("activation"), section(words, "activation_state_dict")
    if activation not in ("TopK", "ReLU"):
        raise DictionaryError(f"{path}: the activation {activation!r} is not TopK or ReLU.")
    if rest.get("postact_fn", "ReLU") != "ReLU":
        raise DictionaryError(f"{path}: the postact_fn {rest['postact_fn']!r} is not ReLU.")
    topk = activation == "TopK"
    tensors = Tensors(path)
    b_dec, b_enc = tensors.vector("pre_bias"), tensors.per_feature("latent_bias")
    weights = Weights(
        enc=tensors.matrix("encoder.weight", len(b_enc), len(b_dec), axis=0),
        dec=tensors.matrix("decoder.weight", len(b_enc), len(b_dec), axis=1),
        b_dec=b_dec,
        gate=b_enc,
        centred=True,
    )
    return assemble(
        path,
        [path],
        weights,
        id=name_of(id, location, path.stem),
        format=FORMAT,
        architecture="topk" if topk else "standard",
        site=site,
        model="openai-community/gpt2",
        norm=Norm.LAYER_NORM if topk else Norm.NONE,
        k=whole_number(rest, "k", path) if topk else None,
        refused=f"{path} reads inside the MLP ({site.hook}), which is not a place that can be "
        "steered."
        if "." in site.hook
        else "",
    )


def _told_by_path(path: Path) -> tuple[str, Site]:
    words = "|".join(_LOCATIONS)
    for name in reversed(path.absolute().parts[:-1]):
        found = re.fullmatch(rf"({words})(?:_v\d\w*)?", name)
        if found and path.stem.isdigit():
            return name, Site(int(path.stem), _LOCATIONS[found[1]])
    raise DictionaryError(
        f"{path} does not tell where it was trained: OpenAI's files have no config, so keep their "
        "published path, such as resid_post_mlp_v5_32k/autoencoders/6.pt."
    )
