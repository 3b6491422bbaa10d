"""A conversation as the workshop has a model answer it: at once, without thinking first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from dictionaries.making.subject import Message

from .engine.regions import Marks, Region
from .engine.text import Prompt, render
from .errors import SteerdeckError


class Asking:
    """Messages -> where the reply begins. Bands and scores are of short replies, which of a model
    that thinks would be nothing but the beginning of a thought.

    Raises BadRequest where the chat template refuses the messages, SteerdeckError where it opens a
    thinking block whatever it is told.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._marks = tokenizer, Marks.of(tokenizer)

    def __call__(self, messages: Sequence[Message]) -> Prompt:
        said = cast(Sequence[Mapping[str, str]], messages)
        prompt = render(self._tokenizer, said, thinking=False)
        if Region(self._marks, prompt.ids, prompt.steerable).thinking:
            raise SteerdeckError(
                "this model's chat template begins every reply inside a thinking block, so that "
                "short replies would be thoughts: give the model's folder a chat_template.jinja "
                "that closes the block, or leaves it out where enable_thinking is false"
            )
        return prompt
