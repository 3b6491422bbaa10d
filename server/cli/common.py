"""What the client commands share: a server to speak to, and one sentence when it says no."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import quote, urlsplit

import httpx2
import typer

UrlOption = Annotated[
    str,
    typer.Option(
        "--url",
        "-u",
        envvar="STEERDECK_URL",
        help="The running server. The key that it may want is read from STEERDECK_API_KEY.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the server's JSON as it is.")]
KEY = "STEERDECK_API_KEY"  # the variable
DEFAULT_URL = "http://127.0.0.1:8000"
_NOBODY = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.InvalidURL,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
)


class Refused(Exception):
    """An answer did not come, or not whole: the sentence that says why."""


def say(message: str) -> None:
    """One sentence on stderr."""
    typer.echo(f"steerdeck: {message}", err=True)


def fail(message: str, code: int = 1) -> NoReturn:
    """One sentence on stderr, and out."""
    say(message)
    raise typer.Exit(code)


def show(value: Any, err: bool = False) -> None:
    stream = sys.stderr if err else sys.stdout
    plain = (stream.encoding or "").lower() not in ("utf-8", "utf8")  # JSON is UTF-8: else ASCII
    typer.echo(json.dumps(value, indent=2, ensure_ascii=plain), err=err)


def lines(path: Path) -> list[str]:
    """The texts of a file, one a line, less the empty ones."""
    try:
        found = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        fail(f"{path} cannot be read as text: {exc}")
    return [line.strip() for line in found if line.strip()]


def harmless(text: str) -> str:
    """Without control characters: an escape sequence of a model's, or of strangers' cards, must not
    command the terminal.
    """
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def in_path(name: str) -> str:
    """A name as one part of a URL's path (a slash stays: `foghorn/12`)."""
    return quote(name, safe="/@", errors="replace")


class Api:
    """A running server. The key comes from STEERDECK_API_KEY: options are seen by other users."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def _client(self) -> httpx2.Client:
        key = _key()
        # Bytes: of a text httpx2 takes ASCII only, and a key may be anything.
        bearer = {b"authorization": f"Bearer {key}".encode(errors="replace")}
        try:
            return httpx2.Client(
                base_url=self.url,
                headers=bearer if key else {},
                timeout=httpx2.Timeout(None, connect=5.0),
                trust_env=not _loopback(self.url),
            )
        except (ImportError, ValueError) as exc:
            raise Refused(
                f"a proxy of the environment cannot be used ({str(exc).rstrip('.')}): give the "
                "address of an HTTP proxy in HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, or unset them"
            ) from exc

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """The JSON of a reply; a refusal or an unreachable server ends the command."""
        try:
            with self._trouble(), self._client() as http:
                response = http.request(method, path, **more)
                _accepted(response)
                return self._object(response.text)
        except Refused as exc:
            fail(str(exc))

    def stream(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of a chat completion, as they come. Raises Refused."""
        ask: dict[str, Any] = {"method": "POST", "json": {**body, "stream": True}}
        ask["max_event_size"] = None  # the last chunk tells every change of a long timeline
        with (
            self._trouble(),
            self._client() as http,
            http.sse("/v1/chat/completions", **ask) as events,
        ):
            if not events.response.is_success:
                events.response.read()
                _accepted(events.response)
            for event in events:
                if event.data == "[DONE]":
                    return
                chunk = self._object(event.data)
                if "error" in chunk:
                    raise Refused(harmless(chunk["error"]["message"]))
                yield chunk
        raise Refused("the reply broke off before its end: ask again")

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        """What goes wrong on the way, as Refused."""
        try:
            yield
        except _NOBODY as exc:
            raise Refused(
                f"no server answers at {self.url} ({exc}): start one with `steerdeck serve`, or "
                "name another with --url"
            ) from exc
        except UnicodeEncodeError:
            raise Refused("what was typed holds bytes that are no UTF-8: send text") from None
        except httpx2.LocalProtocolError:  # which quotes the header, and so the key
            raise Refused(f"{KEY} holds what no header may, such as a line break") from None
        except httpx2.SSEError as exc:
            raise self._stranger() from exc
        except httpx2.HTTPError as exc:
            raise Refused(
                f"the connection to {self.url} broke before the answer was whole ({exc}): ask again"
            ) from exc

    def _object(self, text: str) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except ValueError:
            raise self._stranger() from None
        if not isinstance(found, dict):
            raise self._stranger()
        return found

    def _stranger(self) -> Refused:
        return Refused(f"what answers at {self.url} is not Steerdeck's API: check --url")


def _key() -> str:
    """The caller's, or ""."""
    return os.environ.get(KEY, "").strip()  # an .env file of Windows ends its lines in \r\n


def _loopback(url: str) -> bool:
    """Whether it is this machine's: a proxy set for the outside must not swallow it."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _accepted(response: httpx2.Response) -> None:
    """Raises Refused with what a server says that does not do as asked."""
    status, to = response.status_code, response.headers.get("location")
    if response.is_redirect and to:
        raise Refused(f"the server answered {status} and points to {to}: ask there with --url")
    if not response.is_success:
        raise Refused(_message(status, response.text))


def _message(status: int, text: str) -> str:
    if status == 401:  # the server's own words are of headers
        why = f"does not take the API key in {KEY}: set it" if _key() else f"wants a key: set {KEY}"
        return f"the server {why} to one of its keys (STEERDECK_API_KEYS)"
    try:
        return harmless(str(json.loads(text)["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        return f"the server answered {status}: {harmless(text[:200])}"
