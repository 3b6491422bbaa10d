"""Every refusal as OpenAI's error object, whatever raised it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from dictionaries.errors import Closed, DictionaryError

from .complaints import sentence
from .errors import BadRequest, MethodNotAllowed, NotFound, SteerdeckError, Unavailable
from .schemas.replies import ErrorReply

if TYPE_CHECKING:
    from .metrics import Metrics


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

    async def closed(_: Request, exc: Exception) -> JSONResponse:
        return answer(Unavailable("the server is shutting down"))  # nobody else closes cards

    async def http(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, HTTPException)
        return answer(_of_starlette(request, exc))

    app.add_exception_handler(SteerdeckError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(DictionaryError, dictionary)
    app.add_exception_handler(Closed, closed)
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
