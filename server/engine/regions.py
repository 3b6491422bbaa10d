"""Where a reply thinks and where it calls a tool: told by the marks that models write around both.

Only marks that are tokens of their own count, and of a chat's only those the template wrote: a
message that spells one opens nothing. A raw prompt is nobody's message, so there all of them count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_THINKING = (
    ("<think>", "</think>"),  # DeepSeek-R1, Qwen 3, SmolLM 3, GLM 4.5
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
)
_CALLING = (
    ("<tool_call>", "</tool_call>"),  # Qwen, Hermes, GLM
    ("<|tool_call|>", "<|/tool_call|>"),  # Phi 4
    ("<|tool_call_start|>", "<|tool_call_end|>"),  # LFM 2
    ("<|START_ACTION|>", "<|END_ACTION|>"),  # Command A
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ("[TOOL_CALLS]", ""),  # Mistral: up to the end of the reply
    ("<|python_tag|>", ""),  # Llama 3.1, likewise
)
# What a content may hold of its own.
OWN_MARKS = frozenset(name for pair in (*_THINKING, *_CALLING) for name in pair)


@dataclass(frozen=True, slots=True)
class Headers:
    """Marks of the harmony format (gpt-oss), where a header in words comes before every message:
    `<|start|>assistant to=functions.sum<|channel|>commentary<|message|>`. It names the channel,
    `analysis` for thinking, and of a tool call whom it goes to.
    """

    begin: frozenset[int]  # what follows is of a header
    message: int  # the header is over
    end: frozenset[int]  # the message is over
    text: Callable[[int], str]

    @classmethod
    def of(cls, tokenizer: Any, ids: Mapping[str, int]) -> Headers | None:
        if not {"<|start|>", "<|channel|>", "<|message|>"} <= ids.keys():
            return None
        ends = (ids[name] for name in ("<|end|>", "<|call|>", "<|return|>") if name in ids)
        return cls(
            frozenset((ids["<|start|>"], ids["<|channel|>"])),
            ids["<|message|>"],
            frozenset(ends),
            lambda token: str(tokenizer.decode([token])),
        )


@dataclass(frozen=True, slots=True)
class Marks:
    """A tokenizer's marks: token -> whether thinking (calling) goes on after it."""

    thinking: Mapping[int, bool]
    calling: Mapping[int, bool]
    headers: Headers | None = None

    @classmethod
    def of(cls, tokenizer: Any) -> Marks:
        ids = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
        headers = Headers.of(tokenizer, ids)
        return cls(_found(_THINKING, ids), _found(_CALLING, ids), headers)

    @property
    def thinks(self) -> bool:
        return bool(self.thinking) or self.headers is not None


def _found(pairs: Sequence[tuple[str, str]], ids: Mapping[str, int]) -> dict[int, bool]:
    found: dict[int, bool] = {}
    for begin, end in pairs:
        if begin in ids and (not end or end in ids):
            found[ids[begin]] = True
            if end:
                found[ids[end]] = False
    return found


def calls(tokenizer: Any, text: str) -> list[range]:
    """The tool calls in a text that the model said, marks and all."""
    known = {token.content for token in tokenizer.added_tokens_decoder.values()}
    found = []
    for begin, end in _CALLING:
        start = text.find(begin) if begin in known and (not end or end in known) else -1
        while start >= 0:
            stop = text.find(end, start) + len(end) if end and end in text[start:] else len(text)
            found.append(range(start, stop))
            start = text.find(begin, stop)
    return sorted(found, key=lambda call: call.start)


class Region:
    """Where the newest token of one reply stands; a mark belongs to what comes after it."""

    def __init__(
        self, marks: Marks, prompt: Sequence[int], steerable: Sequence[bool], *, raw: bool = False
    ) -> None:
        self._marks = marks
        self._header: str | None = None  # its words so far
        self.thinking = self._calling = self._closes = False
        if marks.thinks:
            for at, (token, written) in enumerate(zip(prompt, steerable, strict=True)):
                if raw or (at and not written):  # the first is not steerable, whoever wrote it
                    self.thinking = marks.thinking.get(token, self.thinking)
                    self._follow(token)

    def enter(self, token: int) -> None:
        """The reply goes on with this token."""
        called = self._calling
        self.thinking = self._marks.thinking.get(token, self.thinking)
        self._calling = self._marks.calling.get(token, called)
        self._closes = called and not self._calling
        self._follow(token)

    @property
    def calling(self) -> bool:
        """In a tool call, or in a header; no edit acts there. The mark that closes a call is of
        the call, as where it comes back in a prompt (`calls`).
        """
        return self._calling or self._closes

    def _follow(self, token: int) -> None:
        """Through headers and the messages they announce."""
        headers = self._marks.headers
        if headers is None:
            return
        if token in headers.begin:
            self._header = self._header or ""
            self.thinking, self._calling = False, True
        elif token == headers.message:
            said, self._header = self._header or "", None
            self.thinking, self._calling = "analysis" in said, "to=" in said
        elif token in headers.end:
            self.thinking = self._calling = False
        elif self._header is not None:
            self._header += headers.text(token)
