"""The rack as a link, and a request as a command a person can run elsewhere.

A link is `/?steer=foghorn/12:c:2.5,foghorn/7:a:-1:rp&norm=keep`: entries of reference, op,
strength, flags and, as JSON, when it acts. It carries no text of a conversation and no label:
labels come from the server that opens the link.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from pydantic import ValidationError

from .errors import LinkError
from .rack import MOST, Op, Rack, Where
from .slider import FURTHEST
from .timing import ALWAYS, Timing

# One letter an op, no letter twice: add and ablate, at_least and at_most begin alike.
OPS: Mapping[str, Op] = {
    "c": "clamp",
    "a": "add",
    "x": "ablate",
    "s": "scale",
    "g": "at_least",
    "l": "at_most",
}
LETTERS = {op: letter for letter, op in OPS.items()}
WHERES: Mapping[str, Where] = {"p": "prompt", "o": "generated"}
FLAGS = {where: flag for flag, where in WHERES.items()}


def encode(rack: Rack, *, keep_norm: bool) -> str:
    """The query string that restores the rack, empty for an empty one. Switched off stays so."""
    if not rack:
        return ""
    parts = []
    for held in rack:
        flags = ("r" if held.unit == "raw" else "") + FLAGS.get(held.where, "")
        flags += "" if held.on else "-"
        fields = [quote(held.feature), LETTERS[held.op], f"{held.strength:g}", flags]
        if held.timing != ALWAYS:
            fields.append(quote(json.dumps(held.timing.wire(), separators=(",", ":")), safe=""))
        parts.append(":".join(fields).rstrip(":"))
    # A second quoting, of the first one's "%": the address is unquoted once before `decode` splits.
    steer = quote(",".join(parts), safe="/,:")
    return f"steer={steer}" + ("&norm=keep" if keep_norm else "")


def decode(steer: str) -> list[dict[str, Any]]:
    """The wire edits of a link's `steer`, each with `on`. LinkError says what is wrong with it."""
    parts = [part for part in steer.split(",") if part]
    if len(parts) > MOST:
        raise LinkError(f"The link names {len(parts)} features; at most {MOST} act at once.")
    return [_edit(part) for part in parts]


def _edit(part: str) -> dict[str, Any]:
    fields = part.split(":")
    if len(fields) not in (3, 4, 5) or fields[1] not in OPS or not fields[0]:
        raise LinkError(f"The link's “{part[:60]}” is not of the form feature:op:strength.")
    try:
        strength = float(fields[2])
    except ValueError:
        strength = math.nan
    if not abs(strength) <= FURTHEST:
        raise LinkError(
            f"The link's strength “{fields[2][:20]}” is not a number below {FURTHEST:g}."
        )
    flags = fields[3] if len(fields) > 3 else ""
    timing = _timing(fields[4]) if len(fields) == 5 else {}
    where = next((WHERES[flag] for flag in flags if flag in WHERES), "all")
    return {
        "feature": unquote(fields[0]),
        "op": OPS[fields[1]],
        "strength": strength,
        "unit": "raw" if "r" in flags else "max",
        "where": where,
        "on": "-" not in flags,
        **timing,
    }


def _timing(field: str) -> dict[str, Any]:
    try:
        return Timing.model_validate_json(unquote(field)).wire()
    except ValidationError:
        raise LinkError(f"The link's “{unquote(field)[:60]}” does not say when to act.") from None


def curl(url: str, body: Mapping[str, Any], *, key: bool) -> str:
    """A shell command that asks the same and prints the answer as one JSON object.

    body: a chat completion's, or a comparison's, which has `variants`. key: the server wants one,
    from $STEERDECK_API_KEY.
    """
    path = "compare" if "variants" in body else "chat/completions"
    auth = ' \\\n  -H "Authorization: Bearer $STEERDECK_API_KEY"' if key else ""
    data = shlex.quote(json.dumps(body, indent=2, ensure_ascii=False))
    return (
        f"curl {shlex.quote(f'{url}/v1/{path}')}{auth} \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d {data}"
    )


def python(url: str, body: Mapping[str, Any], *, key: bool) -> str:
    """A program for the `openai` package that asks the same and prints what comes, receipts too."""
    secret = 'os.environ["STEERDECK_API_KEY"]' if key else '"none needed"'
    asks = _compares(body) if "variants" in body else _chats(body)
    return "\n".join(
        [
            "# pip install openai",
            *(["import os", ""] if key else []),
            "from openai import OpenAI",
            "",
            f"client = OpenAI(base_url={_literal(url + '/v1')}, api_key={secret})",
            *asks,
        ]
    )


def _compares(body: Mapping[str, Any]) -> list[str]:
    return [
        f'told = client.post("/compare", cast_to=object, body={_literal(body, 0)})',
        'for one in told["variants"]:',
        """    print(one["label"], one["message"]["content"], sep="\\n\\n")""",
        """    print("", one["steering"]["receipt"], "\\n", sep="\\n")""",
    ]


def _chats(body: Mapping[str, Any]) -> list[str]:
    """The reply is printed as it comes; its last chunk holds the receipt."""
    known = {name: value for name, value in body.items() if name != "steering"}
    # The package insists on a model, where the service takes the one that it has.
    arguments = [] if "model" in body else ["    model=client.models.list().data[0].id,"]
    arguments += [f"    {name}={_literal(value)}," for name, value in known.items()]
    if "steering" in body:
        arguments.append(f"    extra_body={_literal({'steering': body['steering']})},")
    return [
        "stream = client.chat.completions.create(",
        *arguments,
        "    stream=True,",
        ")",
        "for chunk in stream:",
        "    if chunk.choices and chunk.choices[0].delta.content:",
        '        print(chunk.choices[0].delta.content, end="", flush=True)',
        """print("\\n", chunk.steering["receipt"], sep="\\n")  # what gives the same reply again""",
    ]


def _literal(value: object, depth: int = 1) -> str:
    """A Python literal, broken over lines where it is long."""
    flat = repr(value)
    if len(flat) <= 80 - 4 * depth or not isinstance(value, (dict, list)) or not value:
        return flat
    pad = "    " * (depth + 1)
    if isinstance(value, dict):
        inner = [f"{pad}{name!r}: {_literal(item, depth + 1)}," for name, item in value.items()]
        return "{\n" + "\n".join(inner) + "\n" + "    " * depth + "}"
    inner = [f"{pad}{_literal(item, depth + 1)}," for item in value]
    return "[\n" + "\n".join(inner) + "\n" + "    " * depth + "]"
