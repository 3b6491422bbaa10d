"""OpenAI's older shape of log probabilities, whose keys are the tokens' texts."""

from __future__ import annotations

from server.engine.types import Likely, Token
from server.logprobs import text_logprobs

BRIDGE, KANA = b"\xf0\x9f", b"\xe3\x81"  # beginnings of characters: both read alike


def likely(part: bytes, logprob: float) -> Likely:
    return Likely(len(part), part.decode("utf-8", "replace"), part, logprob)


def test_parts_of_characters_keep_apart_and_the_token_that_came_is_among_them() -> None:
    top = (likely(BRIDGE, -0.2), likely(KANA, -3.1), likely(b"a", -4.0))
    first = Token(2, "\ufffd", BRIDGE, -0.2, top)
    last = Token(1, "b", b"b", -7.0, top[2:])
    told = text_logprobs([first, last], [0, 0])
    assert told["tokens"] == [r"bytes:\xf0\x9f", "b"]
    assert told["top_logprobs"] == [
        {r"bytes:\xf0\x9f": -0.2, r"bytes:\xe3\x81": -3.1, "a": -4.0},
        {"a": -4.0, "b": -7.0},
    ]


def test_of_two_tokens_with_one_text_the_likelier_is_told() -> None:
    same = (likely(b"a", -0.5), likely(b"a", -2.0))
    (told,) = text_logprobs([Token(1, "a", b"a", -2.0, same)], [0])["top_logprobs"]
    assert told == {"a": -0.5}
