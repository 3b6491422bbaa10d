"""Where a reply thinks and where it calls a tool: told by the marks that models write around both.

Only marks that are tokens of their own count, and of the prompt's only those the template wrote: a
message that spells one opens nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class Marks:
    """A tokenizer's marks: token -> whether thinking (calling) goes on after it."""

    thinking: Mapping[int, bool]
    calling: Mapping[int, bool]

    @classmethod
    def of(cls, tokenizer: Any) -> Marks:
        ids = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
        return cls(_found(_THINKING, ids), _found(_CALLING, ids))


def _found(pairs: Sequence[tuple[str, str]], ids: Mapping[str, int]) -> dict[int, bool]:
    found: dict[int, bool] = {}
    for begin, end in pairs:
        if begin in ids and (not end or end in ids):
            found[ids[begin]] = True
            if end:
                found[ids[end]] = False
    return found


class Region:
    """Where the newest token of one reply stands; a mark belongs to what comes after it."""

    def __init__(self, marks: Marks, prompt: Sequence[int], steerable: Sequence[bool]) -> None:
        self._marks = marks
        self.thinking = self.calling = False
        if marks.thinking:
            for token, written in zip(prompt, steerable, strict=True):
                if not written:
                    self.thinking = marks.thinking.get(token, self.thinking)

    def enter(self, token: int) -> None:
        """The reply goes on with this token."""
        self.thinking = self._marks.thinking.get(token, self.thinking)
        self.calling = self._marks.calling.get(token, self.calling)
