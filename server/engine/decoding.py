"""Tokens -> text as they come: never half a character, never what might be a stop string.

A token is bytes, and bytes become text only when they complete a character. The bytes of a token
are read off the vocabulary for the two kinds of decoders in use: byte-level BPE (GPT-2, Llama 3,
Qwen) and SentencePiece's ▁ with byte fallback (Llama 2, Gemma).
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from typing import Any

from .regions import Marks


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    plain += range(ord("®"), ord("ÿ") + 1)
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): byte for i, byte in enumerate(rest)}


_ALPHABET = _byte_alphabet()


def specials(tokenizer: Any) -> dict[int, str]:
    """Every special token and its name. `all_special_ids` has only those with a role, such as the
    end of a text, and lacks others that were added as special: Llama 3's <|start_header_id|>.
    """
    roles = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    added = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    return roles | added


def ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a reply: those `generate` stops at, and the tokenizer's own."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in [*listed, tokenizer.eos_token_id] if i is not None)


class Vocabulary:
    """The bytes of each token of a fast tokenizer, looked up once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        decoders = _decoders(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"])
        self._byte_level = "ByteLevel" in decoders
        self._pieces = bool(decoders & {"ByteFallback", "Metaspace", "Replace"})
        self.special = frozenset(specials(tokenizer))
        self._added: dict[int, str] = {
            i: token.content for i, token in tokenizer.added_tokens_decoder.items()
        }
        self.marks = Marks.of(tokenizer)
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        """Its bytes, those of a special token's name too; b"" for an id beyond the vocabulary."""
        known = self._known.get(token)
        if known is None:
            known = self._look_up(token)
            self._known[token] = known
        return known

    def _look_up(self, token: int) -> bytes:
        if token in self._added:
            return self._spelled(token).encode()
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:
            return b""
        if self._byte_level:
            if all(char in _ALPHABET for char in piece):
                return bytes(_ALPHABET[char] for char in piece)
            return str(piece).encode()
        if self._pieces:
            if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
                return bytes([int(piece[3:5], 16)])
            return str(piece).replace("▁", " ").encode()
        return str(self._tokenizer.decode([token])).encode()

    def _spelled(self, token: int) -> str:
        """An added token's text: Gemma's runs of blanks are some, and spelled as pieces are."""
        blank = self._pieces and not self._byte_level and token not in self.special
        return self._added[token].replace("▁", " ") if blank else self._added[token]

    def text(self, token: int) -> str:
        """For showing one token on its own; a part of a character is U+FFFD."""
        return self.bytes_of(token).decode("utf-8", "replace")


def _decoders(spec: Any) -> set[str]:
    if spec is None:
        return set()
    if spec["type"] == "Sequence":
        return set().union(*(_decoders(part) for part in spec["decoders"]))
    return {spec["type"]}


class Writer:
    """The text of one reply, token by token.

    What it has given out, joined, is the tokens decoded without special ones, up to the first stop
    string or special token of such a name; half a character left at the very end is dropped.
    """

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        self._stop = [string for string in stop if string]
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def write(self, token: int) -> str:
        """The text that is certain with this token. Sets `stopped` at a stop string."""
        if self.stopped:
            return ""
        if token in self._vocabulary.special:
            self.stopped = self._vocabulary.text(token) in self._stop
            return self.end() if self.stopped else ""
        text = self._utf8.decode(self._vocabulary.bytes_of(token))
        return self._pass(text) if self._stop else text

    def _pass(self, text: str) -> str:
        text = self._held + text
        at = min((i for i in map(text.find, self._stop) if i >= 0), default=-1)
        if at >= 0:
            self.stopped, self._held = True, ""
            return text[:at]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was held back, once nothing more comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that a stop string begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
