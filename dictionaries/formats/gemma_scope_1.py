"""Gemma Scope 1 (Gemma 2): a folder with one `params.npz` and no config.

Model, site, layer and width are told by the path alone, as in the published repositories:
`gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/params.npz`. JumpReLU, not centred, fed
with raw activations. W_enc [d_in, d_sae], W_dec [d_sae, d_in].
"""

from __future__ import annotations

import re
from pathlib import Path

from ..dictionary import Dictionary, Site
from ..errors import DictionaryError
from ..weights import Weights
from .common import Tensors, assemble, name_of

FORMAT = "gemma_scope_1"
HOOKS = {"res": "resid_post", "mlp": "mlp_out", "att": "hook_z"}
_REPO = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(\w+)")


def recognise(folder: Path) -> bool:
    return (folder / "params.npz").is_file()


def open(folder: Path, id: str | None = None) -> Dictionary:
    path = folder / "params.npz"
    model, site = _told_by_path(folder)
    tensors = Tensors(path)
    b_dec, b_enc = tensors.vector("b_dec"), tensors.per_feature("b_enc")
    d_in, d_sae = len(b_dec), len(b_enc)
    weights = Weights(
        enc=tensors.matrix("W_enc", d_sae, d_in, axis=1),
        dec=tensors.matrix("W_dec", d_sae, d_in, axis=0),
        b_dec=b_dec,
        gate=b_enc,
        threshold=tensors.per_feature("threshold", d_sae),
    )
    return assemble(
        folder,
        [path],
        weights,
        id=name_of(id, *folder.absolute().parts[-3:]),
        format=FORMAT,
        architecture="jumprelu",
        site=site,
        model=model,
    )


def _told_by_path(folder: Path) -> tuple[str, Site]:
    parts = folder.absolute().parts
    repo = next((m for part in reversed(parts) if (m := _REPO.search(part))), None)
    if repo is None:
        raise DictionaryError(
            f"{folder} does not tell what it was trained on: Gemma Scope has no config, so keep it "
            "under the name of its repository, such as gemma-scope-2b-pt-res/layer_20/width_16k/"
            "average_l0_71."
        )
    size, tuned, what = repo.groups()
    layer = next((m for part in reversed(parts) if (m := re.fullmatch(r"layer_(\d+)", part))), None)
    if what == "transcoders":
        raise DictionaryError(
            f"{folder} is a Gemma Scope transcoder: it reads the MLP's input and writes its "
            "output, and only SAEs, which read and write the same place, can be steered."
        )
    if what not in HOOKS or layer is None:
        raise DictionaryError(
            f"{folder} is no SAE of a decoder layer: wanted a repository ending in "
            f"{', '.join(f'-{hook}' for hook in HOOKS)} and a folder layer_<number>."
        )
    model = f"google/gemma-2-{size}" + ("-it" if tuned == "it" else "")
    return model, Site(int(layer[1]), HOOKS[what])
