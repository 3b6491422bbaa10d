"""Vectors that came with requests, as the engine names and lays them out. See vector_mounts.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from dictionaries.edits import FeatureRows, Norm
from dictionaries.info import Info, Site

from .sites import place

VECTOR = "vector:"  # begins the name of no dictionary and no feature
HOOKS = ("resid_pre", "resid_post")  # where one may be added, of any layer
WHY_NOT = "it came with the request, and nothing encodes it: it has no activation."


@dataclass(frozen=True, slots=True)
class Vector:
    """A direction that came with a request, to be added at a site of the residual stream.

    file: safetensors, as it came, and its sha256; two of one name, site and file are the same.
    numbers: what it holds, d_model floats of 32 bits each in this machine's order.
    """

    name: str
    site: Site
    sha256: str
    file: bytes = field(compare=False, repr=False)
    numbers: bytes = field(compare=False, repr=False)

    @property
    def ref(self) -> str:
        return VECTOR + self.name


def mounted(site: Site) -> str:
    """What the mount of this place is called; no dictionary's name has a slash."""
    return f"/{place(site)}"


def info_of(vector: Vector) -> Info:
    """The dictionary that would have it as its only feature."""
    return Info(
        id=vector.ref,
        format="vector",
        architecture="directions",
        site=vector.site,
        d_in=len(vector.numbers) // torch.float32.itemsize,
        d_sae=1,
        norm=Norm.NONE,
        k=None,
        model=None,
        revision=vector.sha256,
        reads_exactly=False,
        why_not=WHY_NOT,
    )


def rows_of(vectors: Sequence[Vector]) -> FeatureRows:
    """Features that never fire, and whose decoder rows [k, d_model] these are."""
    held = [torch.frombuffer(bytearray(one.numbers), dtype=torch.float32) for one in vectors]
    zero = torch.zeros(len(held))
    return FeatureRows(torch.zeros(len(held), 0), zero, zero, zero, zero, torch.stack(held))
