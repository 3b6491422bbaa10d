"""Documents -> token ids, and which tokens people wrote: not special, not of the chat template."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..contents import contents
from ..errors import DictionaryError
from .subject import Message

log = logging.getLogger("steerdeck.making")

_PATIENCE = 100  # chats in a row that a template may refuse


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
        self._refused = 0

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
        try:
            whole, spans = contents(self._template, messages)
        except Exception as error:  # a template raises what its author liked
            self._refuse(error)
            return None
        self._refused = -1
        encoded = self._tokenizer(
            whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids = encoded["input_ids"]
        content = [
            token not in self._special and any(s.start < stop and s.stop > start for s in spans)
            for token, (start, stop) in zip(ids, encoded["offset_mapping"], strict=True)
        ]
        return Encoding(ids, content)

    def _template(self, messages: Sequence[Mapping[Any, str]]) -> str:
        return str(self._tokenizer.apply_chat_template(list(messages), tokenize=False))

    def _refuse(self, error: Exception) -> None:
        if self._refused < 0:
            return
        if not self._refused:
            log.warning("a chat is left out, the model's chat template refuses it: %s", error)
        self._refused += 1
        if self._refused == _PATIENCE:
            raise DictionaryError(
                f"the model's chat template refused the first {_PATIENCE} chats: {error}. Give "
                "text, or chats with the roles it knows."
            ) from error
