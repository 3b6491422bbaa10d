"""circuit-tracer's per-layer transcoders: `layer_{i}.safetensors`, with a `config.yaml` beside.

W_enc and W_dec are both [d_sae, d_model], not centred; ReLU, JumpReLU where there is a threshold,
or TopK, which keeps negative values. W_skip [d_out, d_in]: y += x W_skip.T. One folder holds every
layer; a `config.yaml` without layers points at files of other repositories.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..containers import open_tensors
from ..dictionary import Dictionary
from ..errors import DictionaryError
from ..info import Site
from ..weights import Weights
from ..whole import Activation, Dense, signed_topk
from .common import (
    NOTHING,
    Config,
    Given,
    assemble,
    name_of,
    number_after,
    read_yaml,
    reading,
    text,
    whole_number,
)
from .path_names import named
from .tensor_file import Tensors

FORMAT = "circuit_tracer"
OUTPUTS = {"mlp.hook_out": "mlp_out", "hook_mlp_out": "mlp_out"}
_THRESHOLD = "activation_function.threshold"


def recognise(path: Path) -> bool:
    return (
        path.suffix == ".safetensors"
        and number_after("layer_", path.stem) is not None
        and {"W_enc", "W_dec", "b_enc", "b_dec"} <= set(open_tensors(path))
    )


def open(path: Path, id: str | None = None, given: Given = NOTHING) -> Dictionary:
    config = described(path.parent)
    tensors = Tensors(path)
    b_dec, b_enc = tensors.vector("b_dec"), tensors.per_feature("b_enc")
    d_sae, d_out = len(b_enc), len(b_dec)
    d_in = tensors.width("W_enc", d_sae, axis=0)
    threshold = tensors.per_feature(_THRESHOLD, d_sae) if _THRESHOLD in tensors else None
    k = _k(config, tensors, given, path)
    weights = Weights(
        enc=tensors.matrix("W_enc", d_sae, d_in, axis=0),
        dec=tensors.matrix("W_dec", d_sae, d_out, axis=0),
        b_dec=b_dec,
        gate=b_enc,
        threshold=threshold,
    )
    skip = tensors.matrix("W_skip", d_out, d_in, axis=0) if "W_skip" in tensors else None
    topk = k is not None or (threshold is None and config.get("activation") == "topk")
    activate = signed_topk(k) if k else _unknown(path) if topk else None
    kind = "topk_" if topk else "jumprelu_" if threshold is not None else ""
    layer, reads, written, refused = places(config, path)
    return assemble(
        path,
        [path],
        weights,
        id=name_of(id, named(path)[-2], path.stem),
        format=FORMAT,
        architecture=f"{kind}{'skip_' if skip else ''}transcoder",
        site=Site(layer, written),
        model=text(config.get("model_name")),
        k=k,
        d_in=d_in,
        reads=reads,
        why_not=reading(reads),
        refused=refused,
        whole=Dense(weights, activate=activate, skip=skip),
    )


def described(folder: Path) -> Config:
    """The set's config; empty without one."""
    path = folder / "config.yaml"
    return read_yaml(path) if path.is_file() else {}


def places(config: Config, path: Path) -> tuple[int, str, str, str]:
    """(layer, what is read, the hook written, why that cannot be steered)."""
    layer = number_after("layer_", path.stem) or 0
    read, written = config.get("feature_input_hook"), config.get("feature_output_hook")
    written = text(written) or "mlp.hook_out"
    refused = ""
    if written not in OUTPUTS:
        refused = f"{path} writes {written!r}, which is not a place that can be steered."
    reads = f"blocks.{layer}.{text(read) or 'mlp.hook_in'}"
    return layer, reads, OUTPUTS.get(written, written), refused


def refuse_pointers(folder: Path) -> None:
    """Say where the files are, if all that is here is a list of them."""
    listed = described(folder).get("transcoders")
    if not isinstance(listed, list) or not listed:
        return
    names = [str(entry).removeprefix("hf://").partition("?")[0] for entry in listed[:3]]
    raise DictionaryError(
        f"{folder} holds no weights: its config.yaml points at {len(listed)} files in other "
        f"repositories. Open one of those: {', '.join(names)}."
    )


def _k(config: Config, tensors: Tensors, given: Given, path: Path) -> int | None:
    if _THRESHOLD in tensors:
        return None
    if "k" in tensors:
        return int(tensors.scalar("k"))
    if "k" in config:
        return whole_number(config, "k", path.parent / "config.yaml")
    return given.k


def _unknown(path: Path) -> Activation:
    """It can be added along without its k, and not be computed."""

    def activate(z: Tensor) -> Tensor:
        raise DictionaryError(
            f"{path} is a TopK transcoder that does not say its k: give k (its model card has it)."
        )

    return activate
