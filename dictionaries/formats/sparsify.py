"""EleutherAI's sparsify: `cfg.json` + `sae.safetensors` in a folder named after the module.

encoder.weight and W_dec are both [d_sae, d_in]; TopK of the rectified pre-activations, always
centred. The repository's `config.json`, one folder up, names the model.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..dictionary import Dictionary, Site
from ..errors import DictionaryError
from ..weights import Weights
from .common import (
    Config,
    Tensors,
    assemble,
    declared,
    name_of,
    read_config,
    text,
    whole_number,
)

FORMAT = "sparsify"
_MODULES = {
    "": "resid_post",
    "mlp": "mlp_out",
    "attn": "attn_out",
    "attention": "attn_out",
    "self_attn": "attn_out",
}


def recognise(folder: Path) -> bool:
    return (folder / "cfg.json").is_file() and (folder / "sae.safetensors").is_file()


def open(folder: Path, id: str | None = None) -> Dictionary:
    path = folder / "cfg.json"
    config = read_config(path)
    above = folder.absolute().parent / "config.json"
    training = read_config(above) if above.is_file() else {}
    tensors = Tensors(folder / "sae.safetensors")
    _only_saes(folder, config, training, tensors)
    b_dec, bias = tensors.vector("b_dec"), tensors.per_feature("encoder.bias")
    d_in, d_sae = len(b_dec), len(bias)
    declared(config, "d_in", d_in, path)
    if config.get("num_latents"):
        declared(config, "num_latents", d_sae, path)
    activation, why_not = _activation(config, path)
    weights = Weights(
        enc=None if why_not else tensors.matrix("encoder.weight", d_sae, d_in, axis=0),
        dec=tensors.matrix("W_dec", d_sae, d_in, axis=0),
        b_dec=b_dec,
        gate=bias,
        centred=True,
    )
    return assemble(
        folder,
        [path, tensors.path],
        weights,
        id=name_of(id, folder.absolute().name),
        format=FORMAT,
        architecture=activation,
        site=_site(folder),
        model=text(training.get("model")),
        k=None if why_not else whole_number(config, "k", path),
        why_not=why_not,
    )


def _only_saes(folder: Path, config: Config, training: Config, tensors: Tensors) -> None:
    """Before 2025-02 only the repository's config told a transcoder."""
    transcode = config.get("transcode", training.get("transcode"))
    if transcode is True or config.get("skip_connection") is True or "W_skip" in tensors:
        raise DictionaryError(
            f"{folder} is a transcoder: it reads a module's input and writes its output, and only "
            "SAEs, which read and write the same place, can be steered."
        )


def _activation(config: Config, path: Path) -> tuple[str, str]:
    """(the activation, why it cannot be read feature by feature)."""
    activation = config.get("activation", "topk")
    if activation == "groupmax":
        return "groupmax", (
            "the activations of this groupmax SAE depend on each feature's whole group and are not "
            "read yet. Use the op 'add'."
        )
    if activation != "topk":
        raise DictionaryError(f"{path}: the activation {activation!r} is not topk or groupmax.")
    if config.get("signed") is True:
        return "topk", "this SAE's features are signed and are not read yet. Use the op 'add'."
    return "topk", ""


def _site(folder: Path) -> Site:
    """sparsify names a folder after the module whose output it read: "layers.10", "h.3.attn"."""
    found = re.fullmatch(r"(?:\w+\.)*(?:layers|h)\.(\d+)(?:\.(\w+))?", folder.absolute().name)
    if not found or (found[2] or "") not in _MODULES:
        raise DictionaryError(
            f"{folder} should be named after the module it was trained on, such as layers.10, "
            f"layers.3.mlp or h.3.attn; {folder.absolute().name!r} is none that can be steered."
        )
    return Site(int(found[1]), _MODULES[found[2] or ""])
