"""Vectors as a request brings them, and as the engine gets them."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import torch
from safetensors.torch import save
from tiny import D_MODEL
from torch import Tensor

from dictionaries.edits import Op
from dictionaries.info import Site
from server.engine.conditions import ALWAYS, Timing
from server.engine.types import FeatureEdit, Where
from server.engine.vectors import Vector, mounted

CALM, STORM = torch.randn(2, D_MODEL, generator=torch.Generator().manual_seed(1))
SITE = {"layer": 1, "hook": "resid_post"}


def sent(numbers: Tensor, layer: int = 1, hook: str = "resid_post") -> dict[str, Any]:
    """One of `steering.vectors`."""
    data = base64.b64encode(save({"vector": numbers})).decode()
    return {"data": data, "site": {"layer": layer, "hook": hook}}


def adding(name: str = "calm", strength: float = 2.5, **more: Any) -> dict[str, Any]:
    """One of `steering.edits`."""
    return {"feature": f"vector:{name}", "op": "add", "strength": strength, "unit": "raw", **more}


def vector(numbers: Tensor, layer: int = 1, hook: str = "resid_post", name: str = "calm") -> Vector:
    file = save({"vector": numbers})
    floats = numbers.float().numpy().tobytes()
    return Vector(name, Site(layer, hook), hashlib.sha256(file).hexdigest(), file, floats)


def edit(
    own: Vector, strength: float = 2.5, where: str = "all", timing: Timing = ALWAYS
) -> FeatureEdit:
    numbers = Op.ADD.edit(strength)
    return FeatureEdit(
        mounted(own.site), 0, Op.ADD, strength, numbers, Where(where), timing, vector=own
    )
