"""What pydantic says of a wrong body, as one sentence for people who write JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from .errors import BadRequest

_PYTHONIC = re.compile(r" or instance of \w+| or object to extract fields from| after validation")


def sentence(errors: Sequence[dict[str, Any]]) -> BadRequest:
    """pydantic's list of complaints as one sentence about the first field, naming it."""
    best, message = _meant(errors)
    field = field_name(best["loc"])
    if best["type"] == "refused":  # a sentence of ours
        field = best["ctx"]["param"] or field
        return BadRequest(
            message if field in message else f"{field}: {message}", param=field or None
        )
    if best["type"] == "json_invalid":
        return BadRequest(f"the body is not JSON: {best.get('ctx', {}).get('error', message)}")
    if best["type"] == "string_unicode":
        return BadRequest(f"{field}: there is half a character in it: send whole ones", param=field)
    if best["type"] == "extra_forbidden":
        where, name = field_name(best["loc"][:-1]), str(best["loc"][-1])
        return BadRequest(
            f"there is no field {name!r} in {where or 'the body'}",
            param=f"{where}.{name}" if where else name,
        )
    if best["type"] == "missing":
        return BadRequest(f"{field or 'the body'} is missing", param=field or None)
    if not field:
        return BadRequest("the body must be a JSON object sent with content-type: application/json")
    return BadRequest(f"{field}: {message}{_got(best.get('input'))}", param=field)


def _meant(errors: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """The complaint to tell, and its words.

    A value of a union type is complained about once a member. What is wrong in the member that was
    meant goes deeper than that it is not one of the others; if nothing is deeper, all are told.
    """
    first = errors[0]
    parts = enumerate(pairwise(first["loc"]), 1)
    tag = next((i for i, two in parts if _is_member(*two)), None)
    if tag is None:
        return first, _plain(first)
    members = [e for e in errors if e["loc"][:tag] == first["loc"][:tag]]
    inside = [e for e in members if not e["type"].endswith("_type")] or members
    depth = max(len(e["loc"]) for e in inside)
    deepest = [e for e in inside if len(e["loc"]) == depth]
    words = list(dict.fromkeys(_plain(e) for e in deepest))
    more = (word.removeprefix("input should be ") for word in words[1:])
    best = max(deepest, key=lambda e: e["loc"][-1] if isinstance(e["loc"][-1], int) else 0)
    return best, " or ".join([words[0], *more])


def field_name(loc: Sequence[int | str]) -> str:
    """`("body", "steering", "edits", 0, "op")` -> `steering.edits[0].op`.

    pydantic puts the names of a union's members between; they are no fields and are left out.
    """
    name = ""
    for before, part in pairwise(loc):
        if isinstance(part, int):
            name += f"[{part}]"
        elif part != "[key]" and not _is_member(before, part):  # pydantic's word after a wrong key
            name += f".{part}" if name else part
    return name


def _is_member(before: int | str, part: int | str) -> bool:
    """Of a union; but what stands in `vectors` was named by the caller."""
    return (
        isinstance(part, str)
        and before != "vectors"
        and (part in ("str", "int") or part.startswith(("constrained-", "list[", "function-")))
    )


def _plain(error: dict[str, Any]) -> str:
    """pydantic's words for people who write JSON and know none of our classes."""
    said: str = _PYTHONIC.sub("", error["msg"]).replace("valid dictionary", "valid object")
    if error["type"] in ("too_short", "too_long") and isinstance(error.get("input"), str):
        said = said.replace("item", "character")
    return said[:1].lower() + said[1:]


def _got(value: object) -> str:
    """What came, if it is short: the caller knows it, and it is in no log."""
    if isinstance(value, str | bool | int | float) or value is None:
        told = repr(value)
        return f", not {told}" if len(told) <= 40 else ""
    return ""
