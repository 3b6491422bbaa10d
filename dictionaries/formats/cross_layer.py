"""circuit-tracer's cross-layer transcoders: `W_enc_{i}.safetensors` + `W_dec_{i}.safetensors`.

W_enc_i [d_sae, d_model] reads layer i; W_dec_i [d_sae, layers - i, d_model] writes to layer i
(index 0) and all after it. JumpReLU where there is a threshold_i, else ReLU; not centred.
"""

from __future__ import annotations

from pathlib import Path

from ..edits import Norm
from ..errors import DictionaryError
from ..info import Info, Site
from ..layered import Layered, Part
from ..weights import Weights
from .circuit_tracer import OUTPUTS, described
from .common import NOTHING, Given, name_of, text
from .path_names import named
from .revision import revision
from .tensor_file import Tensors

FORMAT = "circuit_tracer_clt"
SEVERAL = (
    "{path} is a {what}: each of its features writes to several layers at once, and an edit is "
    "made at one place, so nothing can be steered with it. It can be inspected and encoded."
)


def recognise(path: Path) -> bool:
    return (path / "W_enc_0.safetensors").is_file()


def open(path: Path, id: str | None = None, given: Given = NOTHING) -> Layered:
    config = described(path)
    files = sorted(path.glob("W_enc_*.safetensors"), key=lambda file: len(file.name))
    layers = len(files)
    parts = [_part(path, i, layers) for i in range(layers)]
    shapes = {(part.weights.d_sae, len(part.weights.b_dec)) for part in parts}
    if len(shapes) != 1:
        raise DictionaryError(f"{path}: its layers have different shapes: {sorted(shapes)}.")
    ((d_sae, d_model),) = shapes
    written = text(config.get("feature_output_hook")) or "hook_mlp_out"
    info = Info(
        id=name_of(id, named(path)[-1]),
        format=FORMAT,
        architecture="clt" if parts[0].weights.threshold is None else "jumprelu_clt",
        site=Site(0, OUTPUTS.get(written, written)),
        d_in=d_model,
        d_sae=d_sae,
        norm=Norm.NONE,
        k=None,
        model=text(config.get("model_name")),
        revision=revision(
            [path / f"W_{side}_{i}.safetensors" for i in range(layers) for side in ("enc", "dec")]
        ),
        reads=text(config.get("feature_input_hook")) or "hook_resid_mid",
        layers=tuple(range(layers)),
        refused=SEVERAL.format(path=path, what="cross-layer transcoder"),
    )
    return Layered(info, path, parts)


def _part(path: Path, i: int, layers: int) -> Part:
    encoder = Tensors(path / f"W_enc_{i}.safetensors")
    decoder = Tensors(path / f"W_dec_{i}.safetensors")
    b_enc, b_dec = encoder.per_feature(f"b_enc_{i}"), encoder.vector(f"b_dec_{i}")
    d_sae, d_model = len(b_enc), len(b_dec)
    threshold = f"threshold_{i}"
    weights = Weights(
        enc=encoder.matrix(f"W_enc_{i}", d_sae, d_model, axis=0),
        dec=decoder.stack(f"W_dec_{i}", d_sae, layers - i, d_model),
        b_dec=b_dec,
        gate=b_enc,
        threshold=encoder.per_feature(threshold, d_sae) if threshold in encoder else None,
    )
    return Part(weights, range(i, layers), None)
