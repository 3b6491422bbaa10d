"""Tokens as people read them."""

from __future__ import annotations

from typing import Any


class TokenTexts:
    """The text of any id, alone; a byte that is no character by itself shows as U+FFFD."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __call__(self, id: int) -> str:
        if id not in self._known:
            text = str(self._tokenizer.decode([id]))
            piece = self._tokenizer.convert_ids_to_tokens(id)
            if piece and piece.startswith("▁") and not text.startswith(" "):
                text = f" {text}"  # SentencePiece's decoding drops a text's first space
            self._known[id] = text
        return self._known[id]
