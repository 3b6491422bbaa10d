"""Every refusal as OpenAI's error object, whatever raised it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from dictionaries.errors import DictionaryError

from .errors import BadRequest, NotFound, SteerdeckError
from .schemas.replies import ErrorReply

if TYPE_CHECKING:
    from .metrics import Metrics


_PYTHONIC = re.compile(r" or instance of \w+| or object to extract fields from| after validation")


class MethodNotAllowed(BadRequest):
    """where: `PUT /v1/models`. allowed: the methods that are there; HEAD is wherever GET is."""

    status, code = 405, "method_not_allowed"

    def __init__(self, where: str, allowed: Iterable[str]) -> None:
        methods = set(allowed)
        self.allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
        super().__init__(f"there is no {where}: use {self.allowed}")


class BodyTooLarge(BadRequest):
    status, code = 413, "body_too_large"


def error_body(exc: SteerdeckError) -> ErrorReply:
    message = printable(str(exc))
    param = printable(exc.param) if exc.param else None
    return {"error": {"message": message, "type": exc.kind, "param": param, "code": exc.code}}


def error_response(exc: SteerdeckError) -> JSONResponse:
    headers = {} if exc.retry_after is None else {"retry-after": str(exc.retry_after)}
    if exc.status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(exc, MethodNotAllowed):
        headers["allow"] = exc.allowed
    return JSONResponse(error_body(exc), exc.status, headers)


def printable(text: str) -> str:
    """What can be encoded: a body may carry half a character, and we may be quoting it."""
    return text.encode("utf-8", "replace").decode()


def install(app: FastAPI, metrics: Metrics) -> None:
    """Answer every refusal, and count it by its code. What nobody foresaw is `Answered`'s."""

    def answer(exc: SteerdeckError) -> JSONResponse:
        metrics.refused.labels(exc.code).inc()
        return error_response(exc)

    async def ours(_: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, SteerdeckError)
        return answer(exc)

    async def invalid(_: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, RequestValidationError)
        return answer(sentence(exc.errors()))

    async def dictionary(_: Request, exc: Exception) -> JSONResponse:
        return answer(BadRequest(str(exc)))

    async def http(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, HTTPException)
        return answer(_of_starlette(request, exc))

    app.add_exception_handler(SteerdeckError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(DictionaryError, dictionary)
    app.add_exception_handler(HTTPException, http)


def _of_starlette(request: Request, exc: HTTPException) -> SteerdeckError:
    where = f"{request.method} {request.scope['path']}"
    match exc.status_code:
        case 404:
            return NotFound(f"there is no {where}; /docs lists what there is")
        case 405:
            return MethodNotAllowed(where, (exc.headers or {}).get("Allow", "GET").split(", "))
        case _:
            return BadRequest(_unreadable(request, exc))


def _unreadable(request: Request, exc: HTTPException) -> str:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        return f"a body with content-encoding {encoding[:40]!r} is not read here: send it plain"
    if isinstance(exc.__cause__, UnicodeDecodeError):
        return f"the body is not UTF-8 from byte {exc.__cause__.start} on: encode it as UTF-8"
    return f"the request could not be read: {exc.detail}"


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
    tag = next((i for i, part in enumerate(first["loc"]) if _is_member(part)), None)
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
    for part in loc[1:]:
        if isinstance(part, int):
            name += f"[{part}]"
        elif not _is_member(part):
            name += f".{part}" if name else part
    return name


def _is_member(part: int | str) -> bool:
    return isinstance(part, str) and (
        part in ("str", "int") or part.startswith(("constrained-", "list[", "function-"))
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
