"""The only HTTP of the page: the service's API, its streams and its errors as sentences."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2

from .errors import ApiError

JSON = dict[str, Any]
SILENCE = 60.0  # seconds without a byte that end a stream: the service pings every 15, queued too
CONNECTIONS = 512  # more than any engine's queue holds: it alone says how many are too many
IDLE = 2.0  # seconds after which a connection is not used again: servers close theirs, ours after 5
_NOBODY = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)


@dataclass(frozen=True, slots=True)
class Readiness:
    """`progress` is a fraction of the current stage, None where it is not known.

    message: why the service will not become ready by itself.
    """

    ready: bool
    stage: str = ""
    progress: float | None = None
    message: str = ""


def http_client(*, by_proxy: bool = False) -> httpx2.AsyncClient:
    """by_proxy: by the one that the environment names for the host, if any (HTTPS_PROXY, NO_PROXY).

    Raises ApiError where what it names cannot be used.
    """
    try:
        return httpx2.AsyncClient(
            timeout=httpx2.Timeout(15.0, connect=5.0),
            limits=httpx2.Limits(
                max_connections=CONNECTIONS, max_keepalive_connections=32, keepalive_expiry=IDLE
            ),
            trust_env=by_proxy,
        )
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        raise ApiError(
            f"a proxy of the environment cannot be used ({str(error).rstrip('.')}): give the "
            "address of an HTTP proxy in HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, or unset them"
        ) from error


def loopback(url: str) -> bool:
    """Whether it is this machine's: a proxy set for the outside must not swallow it."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Api:
    """The service at `url`, asked with `key` where that is not empty."""

    url: str
    key: str = ""
    http: httpx2.AsyncClient = field(default_factory=http_client, compare=False, repr=False)

    def keyed(self, key: str) -> Api:
        """The same connections, another key."""
        return replace(self, key=key)

    async def close(self) -> None:
        await self.http.aclose()

    async def ready(self) -> Readiness:
        """Whether the model is loaded. ApiError with status 0: nobody answers."""
        response = await self._send("GET", "/readyz")
        status, body = response.status_code, _object(response)
        if status not in (200, 503):
            stranger = (
                f"{self.url}/readyz answers {status}, where Steerdeck's API answers 200 or 503: "
                "check the address the page was started with (--url)."
            )
            raise _error(body, status, stranger)
        progress = body.get("progress")
        return Readiness(
            ready=status == 200,
            stage=str(body.get("stage") or ""),
            progress=float(progress) if isinstance(progress, (int, float)) else None,
            message=str(body.get("message") or ""),
        )

    async def get(self, path: str, **params: str | int) -> JSON:
        return _checked(await self._send("GET", path, params=params))

    async def feature(self, ref: str) -> JSON:
        return await self.get(f"/v1/features/{quote(ref)}")

    async def firing(self, text: str, **asked: str | int) -> list[JSON]:
        """The features that fire on a text, the most telling first."""
        body = {"text": text, "top": 0, **asked}
        found = await self._send("POST", "/v1/features/activations", json=body)
        return list(_checked(found).get("features", []))

    async def neighbours(self, ref: str, n: int = 8) -> list[JSON]:
        found = await self.get(f"/v1/features/{quote(ref)}/neighbors", n=n)
        return list(found.get("data", []))

    async def presets(self) -> list[JSON]:
        return list((await self.get("/v1/presets")).get("data", []))

    async def save_preset(self, name: str, body: JSON) -> JSON:
        return _checked(await self._send("PUT", f"/v1/presets/{quote(name, safe='')}", json=body))

    async def delete_preset(self, name: str) -> None:
        _checked(await self._send("DELETE", f"/v1/presets/{quote(name, safe='')}"))

    async def steer(self, generation: str, steering: JSON) -> JSON:
        """Replace the edits of a running reply. Its `from_token` is the first that obeys."""
        path = f"/v1/generations/{quote(generation, safe='')}/steering"
        return _checked(await self._send("PATCH", path, json=steering))

    async def stop(self, generation: str) -> None:
        path = f"/v1/generations/{quote(generation, safe='')}"
        _checked(await self._send("DELETE", path))

    def stream(self, body: JSON) -> AsyncIterator[JSON]:
        """The chunks of a chat completion. ApiError when it fails or breaks off before its end."""
        return self._stream("/v1/chat/completions", body)

    def compare(self, body: JSON) -> AsyncIterator[JSON]:
        """The chunks of all variants of a comparison, likewise."""
        return self._stream("/v1/compare", body)

    async def _stream(self, path: str, body: JSON) -> AsyncIterator[JSON]:
        wire = self.http.sse(
            f"{self.url}{path}",
            method="POST",
            json={**body, "stream": True, "stream_options": {"include_usage": True}},
            headers=self._headers(),
            timeout=httpx2.Timeout(None, connect=5.0, read=SILENCE),
            max_event_size=None,  # the last chunk tells every change of a long timeline
        )
        try:
            async with wire as source:
                if not source.response.is_success:
                    await source.response.aread()
                    _checked(source.response)
                async for event in source:
                    if event.data == "[DONE]":
                        return
                    yield _chunk(event.data)
        except _NOBODY as error:
            raise self._unreachable() from error
        except httpx2.ReadTimeout as error:
            raise ApiError(
                f"The reply broke off: the server has sent nothing for {SILENCE:g} seconds."
            ) from error
        except httpx2.HTTPError as error:
            raise ApiError("The connection broke in the middle of the reply.") from error
        raise ApiError("The reply broke off before its end: the server closed the stream.")

    async def _send(self, method: str, path: str, **more: Any) -> httpx2.Response:
        try:
            return await self.http.request(
                method, f"{self.url}{path}", headers=self._headers(), **more
            )
        except _NOBODY as error:
            raise self._unreachable() from error
        except httpx2.TimeoutException as error:
            raise ApiError(f"The server at {self.url} took too long to answer.") from error
        except httpx2.HTTPError as error:
            raise self._unreachable() from error

    def _headers(self) -> Mapping[bytes, bytes]:
        # Bytes: of a text httpx2 takes ASCII only, and a person may type anything as a key.
        return {b"Authorization": f"Bearer {self.key}".encode(errors="replace")} if self.key else {}

    def _unreachable(self) -> ApiError:
        return ApiError(f"No server answers at {self.url}.", code="unreachable")


def _object(response: httpx2.Response) -> JSON:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _checked(response: httpx2.Response) -> JSON:
    body = _object(response)
    if response.is_success:
        return body
    raise _error(body, response.status_code)


def _error(body: JSON, status: int, otherwise: str = "") -> ApiError:
    """What the service says of it. otherwise: what to say where it says nothing."""
    told = body.get("error")
    told = told if isinstance(told, dict) else {}
    otherwise = otherwise or f"The server answered {status} without saying why."
    message = str(told.get("message") or otherwise)
    return ApiError(message, status=status, code=str(told.get("code") or ""))


def _chunk(data: str) -> JSON:
    try:
        chunk = json.loads(data)
    except ValueError as error:
        raise ApiError("The server sent a chunk that is no JSON.", status=200) from error
    if not isinstance(chunk, dict):
        raise ApiError("The server sent a chunk that is no JSON object.", status=200)
    if "error" in chunk:
        raise _error(chunk, 200)
    return chunk
