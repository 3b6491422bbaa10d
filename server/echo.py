"""A prompt said back before its reply, as OpenAI's `echo` does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .engine.types import Token
from .logprobs import Offsets


class Echo(NamedTuple):
    """What is said of a prompt, its tokens, and where in the text each of them begins."""

    text: str = ""
    tokens: Sequence[Token] = ()
    starts: Sequence[int] = ()


def echoed(
    tokenizer: Any, sent: str | list[int], tokens: Sequence[Token], silent: frozenset[int]
) -> Echo:
    """A text as it was sent; of token ids, what they would be as a reply, in which special ones
    (`silent`) have no text.
    """
    if isinstance(sent, str):
        return Echo(sent, tokens, _starts(tokenizer, sent))
    written = list(Offsets(silent).written(tokens))
    return Echo("".join(text for _, text in written), tokens, [at for at, _ in written])


def _starts(tokenizer: Any, text: str) -> list[int]:
    """A token begins where the one before it ends: some tokenizers count no blanks to a word. Or
    before that, where several share a character. One that has no text, such as a special one that
    was added, stands between the others.
    """
    found: list[int] = []
    end = 0
    for start, stop in tokenizer(text, return_offsets_mapping=True)["offset_mapping"]:
        found.append(min(start, end) if start < stop else end)
        end = max(end, stop)
    return found
