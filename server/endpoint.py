"""A patient client of any OpenAI-compatible chat endpoint, for the workshop; safe in threads."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx2

from dictionaries.making.label import CutOff, Declined
from dictionaries.making.subject import Message

from .errors import SteerdeckError

log = logging.getLogger("steerdeck.endpoint")

_BUSY = {429, 503, 529}  # it is there, and says to come back
_PASSING = {408, 409, 425, 500, 502, 504}  # worth another try, too
_NO_CREDIT = "insufficient_quota"  # what a 429 says that no waiting helps
_LONGEST_WAIT = 60.0
_PATIENCE = {"busy": 600.0, "failing": 31.0}  # seconds of pauses for one reply


class Endpoint:
    """Call it with messages and a temperature, get the reply's text.

    Busy and failing servers are asked again after 1, 2, 4 … seconds, a minute at most, or what
    Retry-After says: for ten minutes where they say that they are busy (a 429 without that header
    often means "in the next minute"), and for half a minute where they fail or are not there.
    Raises SteerdeckError when that is not enough, or for a refusal; CutOff for a reply that
    `max_tokens` cut short, and Declined for a 400, which may be of this conversation alone.

    told: hears of every pause, in words, from the thread that waits.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        key: str | None = None,
        max_tokens: int = 200,
        timeout: float = 120.0,
        sleep: Callable[[float], object] = time.sleep,
        told: Callable[[str], object] = log.warning,
    ) -> None:
        """base_url: up to and with /v1. model None: the first that the server lists."""
        self._url = base_url.rstrip("/")
        self._sleep, self.told = sleep, told
        # Bytes: of a text httpx2 takes ASCII only. An .env file of Windows ends its lines in \r\n.
        bearer = {b"authorization": f"Bearer {(key or '').strip()}".encode(errors="replace")}
        headers = bearer if key else {}
        self._http = httpx2.Client(headers=headers, timeout=timeout)
        self._most = max_tokens
        self._settings: dict[str, Any] = {"temperature": 0.0, "max_tokens": max_tokens}
        self.model = model or self._first_model()

    def __call__(self, messages: Sequence[Message], temperature: float = 0.0) -> str:
        found = self._chat({"model": self.model, "messages": list(messages)}, temperature)
        try:
            choice = found["choices"][0]
            said, cut = str(choice["message"]["content"] or ""), choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise SteerdeckError(
                f"{self._url} sent no chat completion but {str(found)[:200]}: is it the base URL "
                "of an OpenAI-compatible server, with /v1?"
            ) from None
        if cut == "length":
            raise CutOff(
                f"was cut off at {self._most} tokens, as those of models that think first are: "
                f"give --max-tokens {10 * self._most}"
            )
        return said

    def close(self) -> None:
        self._http.close()

    def _chat(self, body: dict[str, Any], temperature: float) -> Any:
        """Newer models refuse `max_tokens` and a temperature: then those go."""
        for _ in range(3):
            settings = dict(self._settings)
            if "temperature" in settings:
                settings["temperature"] = temperature
            response = self._patiently("POST", "/chat/completions", json=body | settings)
            said = response.text
            if response.status_code != 400 or not settings:
                break
            if "max_completion_tokens" in said and "max_tokens" in settings:
                limit = settings.pop("max_tokens")
                self._settings = settings | {"max_completion_tokens": limit}
            elif "temperature" in said and "temperature" in settings:
                self._settings = {k: v for k, v in settings.items() if k != "temperature"}
            else:
                break
        if response.status_code == 400:
            raise Declined(f"was refused with 400: {said[:300]}")
        return self._json(response)

    def _first_model(self) -> str:
        listed = self._json(self._patiently("GET", "/models"))
        try:
            return str(listed["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise SteerdeckError(f"{self._url} lists no models: name one with --model") from None

    def _patiently(self, method: str, path: str, **more: Any) -> httpx2.Response:
        waited = dict.fromkeys(_PATIENCE, 0.0)
        while True:
            kind = "failing"
            asked: float | None = None
            try:
                response = self._http.request(method, self._url + path, **more)
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as exc:
                raise SteerdeckError(f"{self._url} is no http:// URL: {exc}") from exc
            except httpx2.LocalProtocolError:  # which quotes the header, and so the key
                raise SteerdeckError(
                    "the key holds what no header may, such as a line break"
                ) from None
            except httpx2.TransportError as exc:
                short, said = type(exc).__name__, str(exc)
            else:
                status = response.status_code
                if status not in _BUSY | _PASSING or _NO_CREDIT in response.text:
                    return response
                kind, asked = "busy" if status in _BUSY else "failing", _retry_after(response)
                short, said = str(status), response.text[:200]
            wait = min(asked or waited[kind] + 1, _LONGEST_WAIT)
            if waited[kind] + wait > _PATIENCE[kind]:
                raise SteerdeckError(self._given_up(kind, waited[kind], f"{short}: {said}"))
            self.told(f"the endpoint is {kind} ({short}), asked again in {wait:.0f} s")
            self._sleep(wait)
            waited[kind] += wait

    def _given_up(self, kind: str, waited: float, trouble: str) -> str:
        if kind == "busy":
            what = f"was busy for {waited / 60:.0f} minutes of pauses ({trouble})"
            remedy = "later, or with a smaller --concurrency"
        else:
            what = f"did not answer, asked again for {waited:.0f} s ({trouble})"
            remedy = "once it does"
        return f"{self._url} {what}: what came is kept, start the same command again {remedy}"

    def _json(self, response: httpx2.Response) -> Any:
        if response.status_code >= 400:
            raise SteerdeckError(
                f"{self._url} refused with {response.status_code}: {response.text[:300]}"
            )
        try:
            return response.json()
        except ValueError:
            raise SteerdeckError(
                f"{self._url} answered with something other than JSON: {response.text[:200]!r}"
            ) from None


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds; a date, which is allowed too, is not worth reading."""
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
