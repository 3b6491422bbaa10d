"""Log probabilities of tokens, in both of OpenAI's shapes."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from .engine.types import Likely, Token
from .schemas.replies import TokenLogprob, TopLogprob
from .trace import possible


def chat_logprob(token: Token) -> TokenLogprob:
    top: list[TopLogprob] = [
        {"token": t.text, "logprob": possible(t.logprob), "bytes": list(t.bytes)} for t in token.top
    ]
    return {
        "token": token.text,
        "logprob": possible(token.logprob),
        "bytes": list(token.bytes),
        "top_logprobs": top,
    }


def text_logprobs(tokens: Sequence[Token], offsets: list[int]) -> dict[str, Any]:
    """The older shape. offsets: characters of the reply before each token."""
    return {
        "tokens": [_name(token) for token in tokens],
        "token_logprobs": [possible(token.logprob) for token in tokens],
        "top_logprobs": [_by_name(token) for token in tokens],
        "text_offset": offsets,
    }


def _by_name(token: Token) -> dict[str, float]:
    """The likeliest and, where it is none of them, the token itself. Of two with one name, such as
    a special token and its spelling, the likelier.
    """
    found: dict[str, float] = {}
    listed: list[Token | Likely] = [*token.top, token]
    for one in listed:
        found.setdefault(_name(one), possible(one.logprob))
    return found


def _name(token: Token | Likely) -> str:
    """Its text; parts of characters, which all read alike, by their bytes, as OpenAI names them."""
    try:
        token.bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)
    return token.text


class Offsets:
    """Where in a reply's text its tokens begin. As the engine writes it: by whole characters, and
    nothing for a special token.
    """

    def __init__(self, silent: frozenset[int]) -> None:
        self._silent = silent
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at = 0

    def of(self, tokens: Sequence[Token]) -> list[int]:
        """Of the next tokens."""
        found = []
        for token in tokens:
            found.append(self._at)
            if token.id not in self._silent:
                self._at += len(self._utf8.decode(token.bytes))
        return found
