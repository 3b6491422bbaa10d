"""What the client commands share: a server to speak to, and one sentence when it says no."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Annotated, Any, NoReturn
from urllib.parse import quote

import httpx2
import typer

UrlOption = Annotated[
    str, typer.Option("--url", "-u", envvar="STEERDECK_URL", help="The running server.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the server's JSON as it is.")]
DEFAULT_URL = "http://127.0.0.1:8000"


def fail(message: str, code: int = 1) -> NoReturn:
    """One sentence on stderr, and out."""
    typer.echo(f"steerdeck: {message}", err=True)
    raise typer.Exit(code)


def show(value: Any, err: bool = False) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False), err=err)


def in_path(name: str) -> str:
    """A name as one part of a URL's path (a slash stays: `foghorn/12`)."""
    return quote(name, safe="/@")


class Api:
    """A running server. The key comes from STEERDECK_API_KEY: options are seen by other users."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def _client(self) -> httpx2.Client:
        key = os.environ.get("STEERDECK_API_KEY")
        return httpx2.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(None, connect=5.0),
        )

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """The JSON of a reply; a refusal or an unreachable server ends the command."""
        try:
            with self._client() as http:
                response = http.request(method, path, **more)
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            self._unreachable(exc)
        if response.status_code >= 400:
            fail(_message(response.status_code, response.text))
        return response.json()

    def stream(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of a chat completion, as they come."""
        ask: dict[str, Any] = {"method": "POST", "json": {**body, "stream": True}}
        try:
            with self._client() as http, http.sse("/v1/chat/completions", **ask) as events:
                if events.response.status_code >= 400:
                    events.response.read()
                    fail(_message(events.response.status_code, events.response.text))
                for event in events:
                    if event.data == "[DONE]":
                        return
                    chunk = json.loads(event.data)
                    if "error" in chunk:
                        fail(chunk["error"]["message"])
                    yield chunk
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            self._unreachable(exc)
        fail("the reply broke off before its end")

    def _unreachable(self, exc: Exception) -> NoReturn:
        fail(f"no server answers at {self.url} ({exc}): start one with `steerdeck serve`, or --url")


def _message(status: int, text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {status}: {text[:200]}"
