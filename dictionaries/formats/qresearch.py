"""A bare encoder and decoder in one `.pt` (qresearch's DeepSeek-R1-Distill and Llama 3.2 SAEs).

encoder.weight [d_sae, d_in], decoder.weight [d_in, d_sae]; ReLU, not centred. The file's name tells
model and layer: "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt".
"""

from __future__ import annotations

from pathlib import Path

from ..containers import open_tensors
from ..dictionary import Dictionary
from ..weights import Weights
from .common import NOTHING, Given, assemble, name_of
from .goodfire import told_by_name
from .tensor_file import Tensors

FORMAT = "qresearch"
_NAMES = {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}


def recognise(path: Path) -> bool:
    return path.suffix in (".pt", ".pth") and set(open_tensors(path)) == _NAMES


def open(path: Path, id: str | None = None, given: Given = NOTHING) -> Dictionary:
    site, model = told_by_name(path)
    tensors = Tensors(path)
    b_dec, b_enc = tensors.vector("decoder.bias"), tensors.per_feature("encoder.bias")
    weights = Weights(
        enc=tensors.matrix("encoder.weight", len(b_enc), len(b_dec), axis=0),
        dec=tensors.matrix("decoder.weight", len(b_enc), len(b_dec), axis=1),
        b_dec=b_dec,
        gate=b_enc,
    )
    return assemble(
        path,
        [path],
        weights,
        id=name_of(id, path.stem),
        format=FORMAT,
        architecture="standard",
        site=site,
        model=model,
    )
