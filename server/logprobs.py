"""Log probabilities of tokens, in both of OpenAI's shapes."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
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


def text_logprobs(tokens: Sequence[Token], offsets: Sequence[int]) -> dict[str, Any]:
    """The older shape. offsets: characters of the text before each token.

    null for a token of a prompt that was not scored, as the first never is.
    """
    scored = [token.logprob is not None for token in tokens]
    both = list(zip(tokens, scored, strict=True))
    return {
        "tokens": [_name(token) for token in tokens],
        "token_logprobs": [possible(token.logprob) if known else None for token, known in both],
        "top_logprobs": [_by_name(token) if known else None for token, known in both],
        "text_offset": list(offsets),
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
    """Where in a text its tokens begin. As the engine writes it: by whole characters, and nothing
    for a special token. at: where the first does.
    """

    def __init__(self, silent: frozenset[int], at: int = 0) -> None:
        self._silent = silent
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at = at

    def of(self, tokens: Sequence[Token]) -> list[int]:
        """Of the next tokens."""
        return [at for at, _ in self.written(tokens)]

    def written(self, tokens: Sequence[Token]) -> Iterator[tuple[int, str]]:
        """Of the next tokens, and what each adds to the text."""
        for token in tokens:
            silent = token.id in self._silent
            text = "" if silent else self._utf8.decode(token.bytes)
            yield self._at, text
            self._at += len(text)
