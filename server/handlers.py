"""Every refusal as OpenAI's error object, whatever raised it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from dictionaries.errors import DictionaryError

from .errors import BadRequest, NotFound, SteerdeckError
from .metrics import Metrics
from .schemas.replies import ErrorReply

log = logging.getLogger("steerdeck.http")


class MethodNotAllowed(BadRequest):
    status, code = 405, "method_not_allowed"


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
    return JSONResponse(error_body(exc), exc.status, headers)


def printable(text: str) -> str:
    """What can be encoded: a body may carry half a character, and we may be quoting it."""
    return text.encode("utf-8", "replace").decode()


def install(app: FastAPI, metrics: Metrics) -> None:
    """Answer every exception; count every refusal by its code."""

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

    async def unforeseen(request: Request, exc: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=exc)
        return answer(SteerdeckError("the server failed on this request; its log says why"))

    app.add_exception_handler(SteerdeckError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(DictionaryError, dictionary)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unforeseen)


def _of_starlette(request: Request, exc: HTTPException) -> SteerdeckError:
    where = f"{request.method} {request.url.path}"
    match exc.status_code:
        case 404:
            return NotFound(f"there is no {where}; /docs lists what there is")
        case 405:
            allowed = (exc.headers or {}).get("Allow", "another method")
            return MethodNotAllowed(f"{where} is not allowed: use {allowed}")
        case 413:
            return BodyTooLarge(str(exc.detail))
        case _:
            return BadRequest(f"the request could not be read: {exc.detail}")


def sentence(errors: Sequence[dict[str, Any]]) -> BadRequest:
    """pydantic's list of complaints as one sentence about the first, naming its field.

    A value of a union type is complained about once a member: the deepest complaint is the one
    about the member that was meant.
    """
    first = errors[0]
    branches = [e for e in errors if _shares_union(first, e)]
    best = max(branches, key=lambda e: len(e["loc"]))
    field = field_name(best["loc"])
    message = str(best["msg"]).removeprefix("Value error, ")
    more = len({field_name(e["loc"]) for e in errors} - {field})
    rest = (
        f" (and {more} more field{'s' * (more > 1)} to mend)" if more and not branches[1:] else ""
    )
    if best["type"] == "json_invalid":
        return BadRequest(f"the body is not JSON: {best.get('ctx', {}).get('error', message)}")
    if best["type"] in ("refused", "value_error"):
        return BadRequest(message + rest, param=field or None)
    if best["type"] == "extra_forbidden":
        name = best["loc"][-1]
        return BadRequest(f"{field}: there is no field {name!r} here{rest}", param=field)
    if best["type"] == "missing":
        return BadRequest(f"{field or 'the body'} is missing{rest}", param=field or None)
    if not field:
        return BadRequest("the body must be a JSON object sent with content-type: application/json")
    return BadRequest(f"{field}: {_small(message)}{_got(best.get('input'))}{rest}", param=field)


def _shares_union(first: dict[str, Any], other: dict[str, Any]) -> bool:
    return field_name(first["loc"]) == field_name(other["loc"]) or other is first


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


def _is_member(part: str) -> bool:
    return part in ("str", "int", "TextPart") or any(c in part for c in "[(-")


def _small(message: str) -> str:
    return message[:1].lower() + message[1:]


def _got(value: object) -> str:
    """What came, if it is short enough to say. Never a message's text: those are long or strings
    in places where a string is fine.
    """
    if isinstance(value, bool | int | float) or value is None:
        told = repr(value)
        return f", not {told}" if len(told) <= 40 else ""
    if isinstance(value, str):
        return f", not {value!r}" if len(value) <= 40 else ""
    return ""
