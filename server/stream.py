"""How a job's reply reaches the caller: as one JSON object, or as server-sent events.

A stream ends in exactly one of two ways: finish, usage if asked, `[DONE]`; or one error event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import Any, Protocol

import anyio
from fastapi import Request, Response
from pydantic_core import to_json
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.types import Receive, Scope, Send

from .completions import Writer
from .engine.types import Delta, Finish
from .errors import GenerationFailed, SteerdeckError
from .handlers import error_body
from .jobs import Job

log = logging.getLogger("steerdeck.stream")

PING_SECONDS = 15
SEND_TIMEOUT_SECONDS = 30  # a reader that stalls longer loses its slot
FAREWELL_SECONDS = 3  # at shutdown: time to tell the error before the connection is cut

# At debug level this library logs every chunk, and so what people write.
logging.getLogger("sse_starlette.sse").setLevel(logging.INFO)


def dumps(value: Any) -> str:
    """JSON without spaces; four times as fast as `json`, once a token and row."""
    return to_json(value, inf_nan_mode="null").decode()


async def answered(writer: Writer, request: Request) -> Response:
    """The way its caller asked for."""
    return streamed(writer) if writer.ask.stream else await whole(writer, request)


class Streamed(EventSourceResponse):
    """Server-sent events to a reader who may stall: a lid was closed, and that is no failure."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            log.info("a reader took nothing for %g s, and is let go", self.send_timeout)


def streamed(writer: Writer) -> Response:
    return Streamed(
        events(writer),
        sep="\n",
        ping=PING_SECONDS,
        send_timeout=SEND_TIMEOUT_SECONDS,
        shutdown_event=anyio.Event(),
        shutdown_grace_period=FAREWELL_SECONDS,
    )


async def events(writer: Writer) -> AsyncIterator[dict[str, str]]:
    """The data of each server-sent event."""
    job, include_usage = writer.job, writer.ask.include_usage
    extra: dict[str, Any] = {"usage": None} if include_usage else {}
    try:
        for chunk in writer.opening():
            yield {"data": dumps(chunk | extra)}
        async with aclosing(job.events()) as said:
            async for row, event in said:
                if told := writer.chunk(row, event):
                    yield {"data": dumps(told | extra)}
        if include_usage:
            yield {"data": dumps(writer.usage_chunk())}
        yield {"data": "[DONE]"}
    except SteerdeckError as exc:  # too late for a status: say it in the stream
        yield {"data": dumps(error_body(exc))}
    except (asyncio.CancelledError, GeneratorExit):
        if not job.released:
            job.hung_up()
        raise
    except Exception:
        log.exception("a reply could not be written")
        yield {"data": dumps(error_body(GenerationFailed("the reply could not be written")))}
    finally:
        job.leave()


class Whole(Protocol):
    """What tells a job's outcome in one piece. `whole` is called aside, once every row ended."""

    job: Job

    def add(self, row: int, event: Delta | Finish) -> None: ...
    def whole(self) -> dict[str, Any]: ...


async def whole(
    writer: Whole, request: Request, turn: AbstractAsyncContextManager[object] | None = None
) -> Response:
    """The reply in one piece. If the caller hangs up first, its slot is freed at once.

    turn: what is waited for, and held, while the reply is put together.
    """
    watcher = asyncio.create_task(_on_hang_up(request, writer))
    try:
        async with aclosing(writer.job.events()) as said:
            async for row, event in said:
                writer.add(row, event)
    finally:
        watcher.cancel()
        writer.job.leave()
    # Of a long reply this takes as long as many steps of the others.
    async with turn or nullcontext():
        made = await asyncio.to_thread(lambda: dumps(writer.whole()))
    return Response(made, media_type="application/json")


async def _on_hang_up(request: Request, writer: Whole) -> None:
    """Wait for the disconnect message; the body has been read by now."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    if not writer.job.released:
        writer.job.hung_up()
        writer.job.release()
