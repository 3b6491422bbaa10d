"""Vectors that a request brings: from base64 to what the engine adds."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping
from textwrap import shorten

import torch
from safetensors import SafetensorError, deserialize
from torch import Tensor

from dictionaries.info import Site

from .deck import Deck
from .engine.types import Steering
from .engine.vectors import VECTOR, Vector
from .errors import BadRequest, Unsteerable, named
from .schemas.conditions import STRENGTH
from .schemas.vectors import MAX_VECTORS, WireVector

HEADER = 4096  # bytes of a file beyond its numbers: names and metadata
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_vectors(
    deck: Deck, asked: Mapping[str, WireVector], known: Mapping[str, Vector]
) -> dict[str, Vector]:
    """By name: those that came, and those that the reply has had before.

    One name means one vector, so that the receipt can tell which acted. Raises BadRequest.
    """
    found = dict(known)
    for name, one in asked.items():
        with named(f"vectors.{name}"):
            vector = _read(deck, name, one)
        if found.setdefault(name, vector) != vector:
            raise BadRequest(
                f"vectors.{name}: this reply has another vector of that name, whose sha256 begins "
                f"{found[name].sha256[:12]}, at {found[name].site}: send this one under a new name",
                param=f"vectors.{name}",
            )
    if len(found) > MAX_VECTORS:
        raise BadRequest(
            f"vectors: with these the reply has had {len(found)}, and {MAX_VECTORS} are the most: "
            "name those that it has instead of sending new ones",
            param="vectors",
        )
    return found


def check_named(asked: Iterable[str], steerings: Iterable[Steering]) -> None:
    """Raise BadRequest for a vector that no edit adds: it would silently not steer."""
    used = vectors_of(steerings)
    for name in asked:
        if name not in used:
            raise BadRequest(
                f"vectors.{name}: no edit adds it: name it in one, "
                f'{{"feature": "{VECTOR}{name}", "op": "add", "strength": 1, "unit": "raw"}}, or '
                "leave it out",
                param=f"vectors.{name}",
            )


def vectors_of(steerings: Iterable[Steering]) -> dict[str, Vector]:
    """All that these add, by name."""
    edits = (edit for steering in steerings for edit in steering.edits)
    return {edit.vector.name: edit.vector for edit in edits if edit.vector is not None}


def is_vector(ref: int | str) -> bool:
    return isinstance(ref, str) and ref.startswith(VECTOR) and "/" not in ref


def refuse_vector(ref: int | str) -> None:
    """Raise Unsteerable where a preset's edit names one."""
    if is_vector(ref):
        raise Unsteerable(
            f"{ref}: a preset holds no vectors: add it by an edit of the request that brings it, "
            "or load the server with a folder of directions (--dictionary)",
            param="feature",
        )


def named_vector(ref: str, vectors: Mapping[str, Vector]) -> Vector:
    name = ref.removeprefix(VECTOR)
    if name not in vectors:
        there = ", ".join(vectors) or "none"
        raise BadRequest(
            f"{ref}: no vector {name!r} came with this request: send it in `vectors`, which names "
            f"{there}",
            param="feature",
        )
    return vectors[name]


def _read(deck: Deck, name: str, asked: WireVector) -> Vector:
    can = deck.engine.capabilities
    if can.no_vectors:
        raise Unsteerable(f"no vector can be added to this model: {can.no_vectors}")
    site = Site(asked.site.layer, asked.site.hook)
    if site.layer >= can.layers:
        raise BadRequest(
            f"{VECTOR}{name}: layer {site.layer} came; this model has layers 0 to {can.layers - 1}",
            param="site.layer",
        )
    with named("data"):
        file = _file(name, asked.data, can.d_model)
        numbers = _numbers(name, file, can.d_model)
    floats = numbers.numpy().tobytes()
    return Vector(name, site, hashlib.sha256(file).hexdigest(), file, floats)


def _file(name: str, data: str, d_model: int) -> bytes:
    most = 4 * d_model + HEADER
    if len(data) > (longest := 4 * -(-most // 3)):
        raise BadRequest(
            f"{VECTOR}{name}: {len(data)} characters of base64 came; {longest} are the most for "
            f"the {d_model} numbers that vectors of this model have: send that one tensor alone"
        )
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as exc:
        raise BadRequest(
            f"{VECTOR}{name}: what came is no base64 ({exc}): {_how(d_model)}, without line breaks"
        ) from exc


def _numbers(name: str, file: bytes, d_model: int) -> Tensor:
    """float32 [d_model]. Everything about the file is what the caller says: only the safetensors
    library reads it, which checks every offset.
    """
    try:
        tensors = deserialize(file)  # type: ignore[no-untyped-call]
    except SafetensorError as exc:
        raise BadRequest(
            f"{VECTOR}{name}: the {len(file)} bytes that came are no safetensors file "
            f"({shorten(str(exc), 200, placeholder='…')}): {_how(d_model)}"
        ) from exc
    if len(tensors) != 1:
        raise BadRequest(
            f"{VECTOR}{name}: the file has {len(tensors)} tensors: send one a vector, each under "
            "its own name"
        )
    [(_, tensor)] = tensors
    kind, shape = tensor["dtype"], list(tensor["shape"])
    if kind not in FLOATS or shape != [d_model]:
        raise BadRequest(
            f"{VECTOR}{name}: the tensor is {kind} of shape {shape}; the vectors of this "
            f"model are of shape [{d_model}], in {', '.join(FLOATS)}"
        )
    numbers = torch.frombuffer(tensor["data"], dtype=FLOATS[kind]).float()
    if wrong := _wrong(float(numbers.double().norm())):
        raise BadRequest(f"{VECTOR}{name}: the vector {wrong}")
    return numbers


def _wrong(length: float) -> str:
    """Of a vector so long; "" if nothing is."""
    if length == 0:
        return "is all zeros, which steers nothing: leave it out"
    if not length < math.inf:
        return "holds NaN or infinity: send finite numbers"
    if length > STRENGTH:
        return f"is {length:.3g} long, and {STRENGTH:g} is the most: send it shorter"
    return ""


def _how(d_model: int) -> str:
    made = 'base64.b64encode(safetensors.numpy.save({"vector": v}))'
    return f"{made} makes it, v an array of {d_model} float32"
