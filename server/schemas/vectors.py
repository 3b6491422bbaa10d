"""Vectors that a request brings, and how its edits name them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictInt, StrictStr, field_validator

from dictionaries.info import HOOKS

from ..engine import vectors
from .base import Wire, refuse

MAX_VECTORS = 16  # of one reply: its request's and those that live changes brought

VectorName = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
]


class WireSite(Wire):
    """A place in the residual stream, between two decoder layers."""

    layer: StrictInt = Field(ge=0, lt=2**31, description="decoder layer, counted from 0")
    hook: Literal["resid_pre", "resid_post"] = Field(
        "resid_post", description="resid_pre: what goes into the layer; resid_post: what comes out"
    )

    @field_validator("hook", mode="before")
    @classmethod
    def _in_the_stream(cls, hook: Any) -> Any:
        if hook in HOOKS and hook not in vectors.HOOKS:
            raise refuse(
                f"{hook!r} came, and vectors of a request are added at resid_pre or resid_post: "
                "load the server with a folder of directions (--dictionary) for another place"
            )
        return hook


class WireVector(Wire):
    """A direction of the caller's own, which edits add."""

    data: StrictStr = Field(
        description="base64 of a safetensors file with one tensor: d_model numbers, float32, "
        "float16 or bfloat16",
        repr=False,
    )
    site: WireSite = Field(description="where it is added")


def _few(vectors: Any) -> Any:
    """Before any is looked at: pydantic counts at the end, and complains about each until then."""
    if isinstance(vectors, dict) and len(vectors) > MAX_VECTORS:
        raise refuse(f"{len(vectors)} vectors came, and {MAX_VECTORS} are the most: send fewer")
    return vectors


Vectors = Annotated[
    dict[VectorName, WireVector], BeforeValidator(_few), Field(max_length=MAX_VECTORS)
]
VECTORS = (
    "directions of your own, by a name that edits of this request give as "
    f"`{vectors.VECTOR}NAME`, with the op add and the unit raw: 1 adds the vector as it is. Each "
    "must be named by an edit"
)
