"""Steering JSON of others -> a preset of ours: Neuronpedia's request body, Goodfire's controller.

What cannot be carried over exactly is refused by name, never dropped.
"""

from __future__ import annotations

import math
import re
from typing import Any

from pydantic import ValidationError

from .complaints import sentence
from .deck import Deck
from .errors import BadRequest
from .neuronpedia import meant, row_length
from .schemas.foreign import VECTORS
from .schemas.steering import MAX_EDITS, PresetBody

GOODFIRE_OPS = {"nudge": "add", "pin": "clamp", "mul": "scale"}
# Fields that change what is steered, and the values with which they change nothing for us.
NEURONPEDIA_UNBUILT: dict[str, tuple[Any, ...]] = {
    "normalize_steering": (None, False),
    "steer_method": (None, "SIMPLE_ADDITIVE"),
    "steer_special_tokens": (None, False),
    "is_assistant_axis": (None, False),
}
GOODFIRE_UNBUILT: dict[str, tuple[Any, ...]] = {
    "scopes": (None, []),
    "nonzero_strength_threshold": (None,),
    "min_nudge_entropy": (None,),
    "max_nudge_entropy": (None,),
}


def read_preset(deck: Deck, body: dict[str, Any]) -> PresetBody:
    """Ours or a known other's. Raises BadRequest with a sentence naming the field."""
    if isinstance(body.get("controller"), dict):
        body = {**body["controller"], **{k: v for k, v in body.items() if k != "controller"}}
    if "interventions" in body:
        body = _goodfire(body)
    elif "features" in body:
        body = _neuronpedia(deck, body)
    try:
        return PresetBody.model_validate(body)
    except ValidationError as exc:
        errors = [{**e, "loc": ("body", *e["loc"])} for e in exc.errors()]
        raise sentence(errors) from None


def _neuronpedia(deck: Deck, body: dict[str, Any]) -> dict[str, Any]:
    """`strength_multiplier * strength` times a decoder row, mostly of length 1: `add`, in
    activations of ours, whose rows are as long as in their file.
    """
    body = {_snake(name): value for name, value in body.items()}
    if body.get("vectors") not in (None, []):
        raise BadRequest(
            f"vectors: they are not read here: of each one, {VECTORS}", param="vectors"
        )
    _refuse_unbuilt(body, NEURONPEDIA_UNBUILT, "Neuronpedia's")
    multiplier = _number(body.get("strength_multiplier", 1.0), "strength_multiplier")
    edits = []
    for position, feature in enumerate(_list(body["features"], "features")):
        where = f"features[{position}]"
        index = feature.get("index", feature.get("feature")) if isinstance(feature, dict) else None
        if isinstance(index, str) and re.fullmatch(r"[0-9]{1,12}", index):
            index = int(index)
        if not isinstance(index, int):
            raise BadRequest(f"{where}: an object with an index (a number) is needed")
        if feature.get("steering_vector"):
            raise BadRequest(f"{where}.steering_vector: a vector is not read here: {VECTORS}")
        source = str(feature.get("source") or feature.get("layer") or "")
        model = feature.get("modelId") or feature.get("model") or body.get("model_id")
        strength = multiplier * _number(feature.get("strength"), f"{where}.strength")
        dictionary = meant(deck.dictionaries, source, str(model or ""), where)
        strength = float(f"{strength / row_length(dictionary, index, where):.6g}")
        edit = {"feature": f"{dictionary.info.id}/{index}", "op": "add"}
        edits.append({**edit, "strength": strength, "unit": "raw"})
    return {**_texts(body), "edits": edits}


def _goodfire(body: dict[str, Any]) -> dict[str, Any]:
    """nudge and pin are in multiples of the feature's maximum (its own, where the file has it);
    mul is a factor.
    """
    _refuse_unbuilt(body, GOODFIRE_UNBUILT, "Goodfire's")
    edits = []
    for position, entry in enumerate(_list(body["interventions"], "interventions")):
        where = f"interventions[{position}]"
        if not isinstance(entry, dict) or entry.get("mode") not in tuple(GOODFIRE_OPS):
            raise BadRequest(f"{where}.mode: send one of {', '.join(GOODFIRE_OPS)}")
        value = _number(entry.get("value"), f"{where}.value")
        group = entry.get("features")
        group = group.get("features") if isinstance(group, dict) else group
        for feature in _list(group, f"{where}.features"):
            if not isinstance(feature, dict) or not isinstance(feature.get("index_in_sae"), int):
                raise BadRequest(f"{where}.features: each needs an index_in_sae (a number)")
            edits.append(_goodfire_edit(entry["mode"], value, feature, where))
    return {**_texts(body), "edits": edits}


def _goodfire_edit(mode: str, value: float, feature: dict[str, Any], where: str) -> dict[str, Any]:
    edit = {"feature": feature["index_in_sae"], "op": GOODFIRE_OPS[mode]}
    maximum = feature.get("max_activation_strength")
    if mode == "mul" or maximum is None:
        return {**edit, "strength": value, "unit": "max"}
    return {**edit, "strength": value * _number(maximum, where), "unit": "raw"}


def _texts(body: dict[str, Any]) -> dict[str, str]:
    title = body.get("title") or body.get("name") or ""
    return {"title": str(title)[:200], "description": str(body.get("description") or "")[:2000]}


def _refuse_unbuilt(body: dict[str, Any], table: dict[str, tuple[Any, ...]], whose: str) -> None:
    for name, neutral in table.items():
        if body.get(name) not in neutral:
            raise BadRequest(
                f"{name}: {whose} {name} cannot be carried over exactly: leave it out", param=name
            )


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_EDITS:
        raise BadRequest(f"{name}: a list of 1 to {MAX_EDITS} entries is needed")
    return value


def _number(value: object, name: str) -> float:
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRequest(f"{name}: a number is needed")
    return number


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda m: "_" + m[1].lower(), name)
