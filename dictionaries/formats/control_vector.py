"""Control vectors of repeng and llama.cpp: one `.gguf`, a direction to add at each of many layers.

`direction.<layer>`, floats [d_model]; metadata `controlvector.model_hint`, the model's type. (What
`controlvector.layer_count` counts depends on who wrote it, and nobody reads it.)

`direction.12` is added to the output of decoder layer 12, counted from 0: the site resid_post.
sources: repeng's `read_representations` takes layer i's from hidden_states[i + 1], `export_gguf`
names it `direction.i`, and `ControlModule` adds it to what block i returns. llama.cpp's
`common_control_vector_load_one` puts direction i at n_embd * (i - 1), from where
`llama_adapter_cvec::apply` takes that of layer i, and `build_cvec(cur, il)` adds it behind the MLP
of layer il. It has none for layer 0 and refuses `direction.0`, which repeng may write.

An edit is made at one layer, so a dictionary is one of them (`?layer=12`), as its feature 0. All of
a file's can be looked at together.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from ..card import Card
from ..dictionary import Dictionary
from ..errors import DictionaryError
from ..gguf import read_gguf
from ..info import Info, Site
from ..per_feature import Constant
from ..tensors import MappedTensor
from ..weights import Matrix, Weights
from .common import NOTHING, Given, assemble, name_of, text
from .tensor_file import Tensors

FORMAT = "control_vector"
WHY_NOT = (
    "it is a control vector, which nothing encodes: it has no activation. Use the op 'add' with "
    "the unit 'raw', where 1 adds it as it is."
)
_NAME = re.compile(r"direction\.(0|[1-9]\d{0,5})")
_MOST = 2**28  # numbers of a file; a layer of the largest models has 2**14


def recognise(path: Path) -> bool:
    return path.suffix == ".gguf"


def open(path: Path, id: str | None = None, given: Given = NOTHING) -> Dictionary:
    found = _directions(path)
    layer = _layer(found, given, path)
    if layer is None:
        there, which = [*found], ""
        refused = (
            f"{_spoken(path, found)}, and an edit is made at one: name it, "
            f"{path.name}?layer={there[0]}."
        )
    else:
        there, which, refused = [layer], f"layer{layer}", ""
    rows = torch.stack([found[one] for one in there])
    n, width = rows.shape
    return assemble(
        path,
        [path],
        Weights(
            enc=None,
            dec=Matrix(MappedTensor("direction", rows), 0),
            b_dec=torch.zeros(width),
            gate=Constant(n, 0.0),
        ),
        id=name_of(id, *filter(None, (path.stem, which))),
        format=FORMAT,
        architecture="directions",
        site=Site(there[0], "resid_post"),
        model=text(read_gguf(path).words.get("controlvector.model_hint")),
        why_not=WHY_NOT,
        refused=refused,
        layers=tuple(there) if refused else (),
        part=which,
    )


def _layer(found: dict[int, Tensor], given: Given, path: Path) -> int | None:
    """The one that is asked for, or the only one; None for all of them."""
    wanted = given.layer
    if wanted is not None and wanted not in found:
        raise DictionaryError(f"{_spoken(path, found)}, not of layer {wanted}.")
    return next(iter(found)) if wanted is None and len(found) == 1 else wanted


def cards(path: Path, info: Info) -> list[Card]:
    """Of one layer's direction: the file's name and the layer; the slug is made of the id."""
    slug = re.sub(r"[^a-z0-9]+", "-", info.id.lower()).strip("-")
    label = f"{path.stem}, layer {info.site.layer}"
    return [Card(0, label, slug=slug if re.search("[a-z]", slug) else None)]


def _directions(path: Path) -> dict[int, Tensor]:
    """By layer, ascending: those that are added, [d_model] each. Some writers fill the layers that
    they leave out with zeros.
    """
    tensors = Tensors(path)
    names: dict[int, str] = {}
    for name in tensors.names:
        told = _NAME.fullmatch(name)
        if told is None:
            raise DictionaryError(f"{path} has the tensor {name!r}, which is no direction.<layer>.")
        names[int(told[1])] = name
    sizes = [tensors.shape(name) for name in names.values()]
    if any(len(size) != 1 for size in sizes) or len({*sizes}) > 1:
        raise DictionaryError(
            f"{path}: the directions of a model are vectors of one length, and these have the "
            f"shapes {', '.join(str([*size]) for size in sorted({*sizes})[:8])}."
        )
    if sum(size[0] for size in sizes) > _MOST:
        raise DictionaryError(f"{path} has more than {_MOST} numbers: no model is as large.")
    found = {}
    for layer, name in sorted(names.items()):
        row = tensors.vector(name)
        if not row.norm().isfinite():
            raise DictionaryError(f"tensor {name!r} of {path} is longer than float32 can say.")
        if row.any():
            found[layer] = row
    if not found:
        raise DictionaryError(f"{path} has no direction that is not all zeros.")
    return found


def _spoken(path: Path, found: dict[int, Tensor]) -> str:
    layers = [*found]
    first, last = layers[0], layers[-1]
    if len(layers) == 1:
        return f"{path.name} has the direction of layer {first}"
    if layers == [*range(first, last + 1)]:
        return f"{path.name} has a direction of each of the layers {first} to {last}"
    return f"{path.name} has directions of the layers {', '.join(map(str, layers))}"
