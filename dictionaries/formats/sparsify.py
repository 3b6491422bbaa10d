"""EleutherAI's sparsify: `cfg.json` + `sae.safetensors` in a folder named after the module.

encoder.weight and W_dec are both [d_sae, d_in]; TopK (or the largest of each group) of the
rectified pre-activations. The repository's `config.json`, one folder up, names the model. Centred,
unless `cfg.json` says `transcode: true`: before 2025-02 that key was missing, transcoders were told
by the repository's config alone, and they were centred as well. Transcoders read the module's
input; W_skip [d_out, d_in]: y += x W_skip.T.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..dictionary import Dictionary
from ..errors import DictionaryError
from ..info import Site
from ..weights import Weights
from ..whole import Dense, abs_topk, group_max
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
    whole_number,
)
from .tensor_file import Tensors

FORMAT = "sparsify"
_MODULES = {
    "": "resid_post",
    "mlp": "mlp_out",
    "attn": "attn_out",
    "attention": "attn_out",
    "self_attn": "attn_out",
}
_INNER = tuple(f".{module}" for module in _MODULES if module)
_PERHAPS = (
    "whether this is an SAE or a transcoder, which reads another place, stands in its repository's "
    "config.json: keep that one folder above. Without it, use the op 'add'."
)


def recognise(folder: Path) -> bool:
    return (folder / "cfg.json").is_file() and (folder / "sae.safetensors").is_file()


def open(folder: Path, id: str | None = None, given: Given = NOTHING) -> Dictionary:
    path = folder / "cfg.json"
    config = read_config(path)
    above = folder.absolute().parent / "config.json"
    training = read_config(above) if above.is_file() else {}
    tensors = Tensors(folder / "sae.safetensors")
    b_dec, bias = tensors.vector("b_dec"), tensors.per_feature("encoder.bias")
    d_in, d_sae = len(b_dec), len(bias)
    declared(config, "d_in", d_in, path)
    if config.get("num_latents"):
        declared(config, "num_latents", d_sae, path)
    weights = Weights(
        enc=tensors.matrix("encoder.weight", d_sae, d_in, axis=0),
        dec=tensors.matrix("W_dec", d_sae, d_in, axis=0),
        b_dec=b_dec,
        gate=bias,
        centred=config.get("transcode") is not True,
    )
    skip = tensors.matrix("W_skip", d_in, d_in, axis=0) if "W_skip" in tensors else None
    if config.get("skip_connection") is True and skip is None:
        raise DictionaryError(
            f"{path} says that there is a skip connection, and {tensors.path} has no W_skip: what "
            "it rebuilds would be wrong. Download it again."
        )
    activation, why_not = _activation(config, path)
    k = whole_number(config, "k", path)
    activate = None
    if why_not:
        if activation == "groupmax" and d_sae % k:
            raise DictionaryError(f"{path}: {d_sae} features do not make {k} groups.")
        activate = group_max(k) if activation == "groupmax" else abs_topk(k)
    whole = Dense(weights, k=k, activate=activate, skip=skip)
    reads = ""
    if _transcodes(config, training) or skip is not None:
        activation += "_skip_transcoder" if skip is not None else "_transcoder"
        reads = f"the input of {folder.absolute().name}"
        why_not = reading(reads)
    elif "transcode" not in config and not training and folder.absolute().name.endswith(_INNER):
        why_not = _PERHAPS
    return assemble(
        folder,
        [path, tensors.path],
        weights,
        id=name_of(id, folder.absolute().name),
        format=FORMAT,
        architecture=activation,
        site=_site(folder),
        model=text(training.get("model")),
        k=k,
        of_module=True,
        reads=reads,
        why_not=why_not,
        whole=whole if why_not else None,
    )


def _transcodes(config: Config, training: Config) -> bool:
    return config.get("transcode", training.get("transcode")) is True


def _activation(config: Config, path: Path) -> tuple[str, str]:
    """(the activation, why it cannot be read feature by feature)."""
    activation = config.get("activation", "topk")
    if activation == "groupmax":
        return "groupmax", (
            "the activations of this groupmax SAE depend on each feature's whole group and are not "
            "read one by one. Use the op 'add'."
        )
    if activation != "topk":
        raise DictionaryError(f"{path}: the activation {activation!r} is not topk or groupmax.")
    if config.get("signed") is True:
        return "topk", (
            "this SAE's features are signed, and picked by size among all of them, so they are not "
            "read one by one. Use the op 'add'."
        )
    return "topk", ""


def _site(folder: Path) -> Site:
    """sparsify names a folder after the module whose output it read: "layers.10", "h.3.attn"."""
    if folder.absolute().name in ("embed_tokens", "embed_in"):
        return Site(0, "resid_pre")
    found = re.fullmatch(r"(?:\w+\.)*(?:layers|h)\.(\d+)(?:\.(\w+))?", folder.absolute().name)
    if not found or (found[2] or "") not in _MODULES:
        raise DictionaryError(
            f"{folder} should be named after the module it was trained on, such as layers.10, "
            f"layers.3.mlp or h.3.attn; {folder.absolute().name!r} is none that can be steered."
        )
    return Site(int(found[1]), _MODULES[found[2] or ""])
