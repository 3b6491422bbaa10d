"""Everything the service refuses, and the status it refuses with.

    SteerdeckError                 500
      BadRequest                   400   the request contradicts itself, the model or a dictionary
        Unsteerable                400   an edit cannot be applied exactly as asked
        MethodNotAllowed           405
        BodyTooLarge               413   more bytes or values than are read
      Unauthorized                 401   an API key is needed
      NotFound                     404
        UnknownFeature             404
        UnknownGeneration          404   it ended, or never was
        UnknownModel               404   neither the model nor a preset of it
      TooLong                      413   prompt + reply do not fit the context
      Busy                         429   queue full; Retry-After says when to come back
      NotReady                     503   weights still loading
        Unavailable                503   loading failed, or the server is shutting down
          EngineDead               503   the engine thread ended
      GenerationFailed             500   a step of this reply raised; other requests go on

Every message says what came, what is allowed and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class SteerdeckError(Exception):
    """`code` is the machine-readable word in the error object, `param` the field it is about."""

    status = 500
    code = "internal_error"
    kind = "server_error"
    retry_after: int | None = None  # seconds

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class BadRequest(SteerdeckError):
    status, code, kind = 400, "invalid_request", "invalid_request_error"


class Unsteerable(BadRequest):
    code = "unsteerable"


class MethodNotAllowed(BadRequest):
    """where: `PUT /v1/models`. allowed: the methods that are there; HEAD is wherever GET is."""

    status, code = 405, "method_not_allowed"

    def __init__(self, where: str, allowed: Iterable[str]) -> None:
        methods = set(allowed)
        self.allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
        super().__init__(f"there is no {where}: use {self.allowed}")


class BodyTooLarge(BadRequest):
    status, code = 413, "body_too_large"


class Unauthorized(SteerdeckError):
    status, code, kind = 401, "invalid_api_key", "authentication_error"


class NotFound(SteerdeckError):
    status, code, kind = 404, "not_found", "invalid_request_error"


class UnknownFeature(NotFound):
    code = "unknown_feature"


class UnknownGeneration(NotFound):
    code = "unknown_generation"


class UnknownModel(NotFound):
    code = "model_not_found"


class TooLong(SteerdeckError):
    status, code, kind = 413, "context_length_exceeded", "invalid_request_error"


class Busy(SteerdeckError):
    status, code, kind = 429, "queue_full", "rate_limit_error"
    retry_after: int | None = 2


class NotReady(SteerdeckError):
    status, code, kind = 503, "model_loading", "server_error"
    retry_after: int | None = 2


class Unavailable(NotReady):
    code = "unavailable"
    retry_after = None


class EngineDead(Unavailable):
    code = "engine_dead"


class GenerationFailed(SteerdeckError):
    code = "generation_failed"


@contextmanager
def named(field: str, *, whole: bool = False) -> Iterator[None]:
    """A refusal from inside is about `field`, and unless `whole` about what it names of it."""
    try:
        yield
    except SteerdeckError as exc:
        exc.param = field if whole or not exc.param else f"{field}.{exc.param}"
        raise
