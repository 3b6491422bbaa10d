"""Documents -> token ids, and which tokens people wrote: not special, not of the chat template."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..contents import contents
from ..errors import DictionaryError
from .subject import Message

log = logging.getLogger("steerdeck.making")

_PATIENCE = 100  # chats that a template may refuse before it takes one
_REFUSED = "the model's chat template refuses them"


class Encoding(NamedTuple):
    ids: list[int]
    content: list[bool]


def special_ids(tokenizer: Any) -> set[int]:
    """`all_special_ids` lacks added special tokens that have no role, as Llama 3's headers."""
    added = tokenizer.added_tokens_decoder.items()
    return {i for i, token in added if token.special} | set(tokenizer.all_special_ids)


class Renderer:
    """A fast tokenizer with its chat template, if it has one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = special_ids(tokenizer)
        self._chats = 0
        self._out: Counter[str] = Counter()  # chats left out, by why

    @property
    def templated(self) -> bool:
        return bool(self._tokenizer.chat_template)

    def text(self, text: str) -> Encoding:
        ids = self._tokenizer(text, verbose=False)["input_ids"]
        return Encoding(ids, [i not in self._special for i in ids])

    def chat(self, messages: Sequence[Message]) -> Encoding | None:
        """None where the template refuses (roles that do not alternate, a system message).

        Raises DictionaryError once it has refused every one of the first hundred.
        """
        self._chats += 1
        try:
            whole, found = contents(self._template, messages)
        except Exception as error:  # a template raises what its author liked
            self.leave_out(_REFUSED, str(error))
            if self._out[_REFUSED] == self._chats == _PATIENCE:
                raise DictionaryError(
                    f"the model's chat template refused the first {_PATIENCE} chats: {error}. Give "
                    "text, or chats with the roles it knows."
                ) from error
            return None
        encoded = self._tokenizer(
            whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids = encoded["input_ids"]
        spans = [span for places in found for span in places]
        content = [
            token not in self._special and any(s.start < stop and s.stop > start for s in spans)
            for token, (start, stop) in zip(ids, encoded["offset_mapping"], strict=True)
        ]
        return Encoding(ids, content)

    def leave_out(self, why: str, more: str = "") -> None:
        """Count the last chat out. The log hears of the first, and each time they have doubled."""
        self._out[why] += 1
        if self._out[why].bit_count() == 1:
            self._tell(why, f"so far: {why}{more and ': '}{more}")

    def tell(self) -> None:
        """At the end of a pass: how many chats were left out of it, and why."""
        for why in self._out:
            self._tell(why, f"of this text: {why}")

    def _tell(self, why: str, said: str) -> None:
        log.warning("%d of %d chats are left out %s", self._out[why], self._chats, said)

    def _template(self, messages: Sequence[Mapping[Any, str]]) -> str:
        return str(self._tokenizer.apply_chat_template(list(messages), tokenize=False))
