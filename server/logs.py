"""Logging to stderr: a line an event, with the request's id. No line holds a prompt or reply."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable

QUIET = ("httpx", "httpcore", "httpx2", "sse_starlette.sse", "asyncio", "python_multipart", "PIL")


class TextFormatter(logging.Formatter):
    def __init__(self, request_id: Callable[[], str]) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s%(request)s", "%H:%M:%S")
        self._request_id = request_id

    def format(self, record: logging.LogRecord) -> str:
        name = self._request_id()
        record.request = "" if name == "-" else f" [{name}]"
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (unix seconds), level, logger, message, request, exception."""

    def __init__(self, request_id: Callable[[], str]) -> None:
        super().__init__()
        self._request_id = request_id

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (name := self._request_id()) != "-":
            told["request"] = name
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def set_up(format: str, level: str, request_id: Callable[[], str]) -> None:
    """For the process: once, by the command line."""
    handler = logging.StreamHandler(sys.stderr)
    make = JsonFormatter if format == "json" else TextFormatter
    handler.setFormatter(make(request_id))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("steerdeck").setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
