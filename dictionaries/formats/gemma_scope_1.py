"""Gemma Scope 1 (Gemma 2): a folder with one `params.npz` and no config.

Model, site, layer and width are told by the path alone, as in the published repositories:
`gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/params.npz`. JumpReLU, not centred, fed
with raw activations. W_enc [d_in, d_sae], W_dec [d_sae, d_in].

Transcoders read the MLP's normed input before the norm's gain, which their publisher folded into
the MLP. Embedding SAEs were trained on unscaled embeddings, so they are scaled to what enters the
first layer: embeddings times sqrt(d_in).
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from ..dictionary import Dictionary
from ..errors import DictionaryError
from ..info import Site
from ..per_feature import Constant
from ..weights import Weights
from ..whole import Dense
from .common import NOTHING, Given, assemble, name_of, reading
from .tensor_file import Tensors

FORMAT = "gemma_scope_1"
HOOKS = {"res": "resid_post", "mlp": "mlp_out", "att": "hook_z", "transcoders": "mlp_out"}
_REPO = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(\w+)")


def recognise(folder: Path) -> bool:
    return (folder / "params.npz").is_file()


def open(folder: Path, id: str | None = None, given: Given = NOTHING) -> Dictionary:
    path = folder / "params.npz"
    model, what, site = _told_by_path(folder)
    tensors = Tensors(path)
    b_dec, b_enc = tensors.vector("b_dec"), tensors.per_feature("b_enc")
    d_in, d_sae = len(b_dec), len(b_enc)
    embedding = math.sqrt(d_in) if what == "embedding" else 1.0
    weights = Weights(
        enc=tensors.matrix("W_enc" if "W_enc" in tensors else "w_enc", d_sae, d_in, axis=1),
        dec=tensors.matrix("W_dec" if "W_dec" in tensors else "w_dec", d_sae, d_in, axis=0),
        b_dec=b_dec,
        gate=b_enc,
        threshold=tensors.per_feature("threshold", d_sae),
        enc_scale=1 / embedding,
        dec_scale=Constant(d_sae, embedding),
    )
    reads = f"blocks.{site.layer}.ln2.hook_normalized (before the gain)"
    transcoder = what == "transcoders"
    return assemble(
        folder,
        [path],
        weights,
        id=name_of(id, *folder.absolute().parts[-3:]),
        format=FORMAT,
        architecture="jumprelu_transcoder" if transcoder else "jumprelu",
        site=site,
        model=model,
        reads=reads if transcoder else "",
        why_not=reading(reads) if transcoder else "",
        whole=Dense(weights) if transcoder else None,
    )


def _told_by_path(folder: Path) -> tuple[str, str, Site]:
    """(model, what the repository holds, site)."""
    parts = folder.absolute().parts
    named = [(at, m) for at, part in enumerate(parts) if (m := _REPO.search(part))]
    if not named:
        raise DictionaryError(
            f"{folder} does not tell what it was trained on: Gemma Scope has no config, so keep it "
            "under the name of its repository, such as gemma-scope-2b-pt-res/layer_20/width_16k/"
            "average_l0_71."
        )
    at, repo = named[-1]
    size, tuned, what = repo.groups()
    model = f"google/gemma-2-{size}" + ("-it" if tuned == "it" else "")
    inside = parts[at:]  # what people call the folders above says nothing
    layer = next(
        (m for part in reversed(inside) if (m := re.fullmatch(r"layer_(\d+)", part))), None
    )
    if what == "res" and layer is None and "embedding" in inside:
        return model, "embedding", Site(0, "resid_pre")
    if what not in HOOKS or layer is None:
        raise DictionaryError(
            f"{folder} is no SAE of a decoder layer: wanted a repository ending in "
            f"{', '.join(f'-{hook}' for hook in HOOKS)} and a folder layer_<number>."
        )
    return model, what, Site(int(layer[1]), HOOKS[what])
