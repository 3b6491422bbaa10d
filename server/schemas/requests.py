"""The bodies of /v1/chat/completions and /v1/completions: OpenAI's, plus `steering`."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, StrictInt, field_validator, model_validator

from .base import Root, Switch, Text, Wire, refuse
from .foreign import UNBUILT
from .messages import Message
from .steering import WireSteering

MAX_MESSAGES = 1000
MAX_N = 8
MAX_REPLIES = 64  # of one request: prompts x n
MAX_STOPS = 16

StopText = Annotated[Text, Field(max_length=200)]
Stops = Annotated[list[StopText], Field(max_length=MAX_STOPS, fail_fast=True)]


class StreamOptions(Wire):
    """How a stream is told."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    include_usage: Switch = Field(False, description="send one more chunk with the token counts")


class SamplingFields(Root):
    """What both request bodies share."""

    unbuilt: ClassVar = UNBUILT

    model: str | None = Field(
        None,
        max_length=300,
        description="the loaded model, or `model@preset`; default: the loaded model",
    )
    stream: Switch = Field(False, description="send server-sent events, one a step")
    stream_options: StreamOptions | None = Field(None, description="with stream only")
    temperature: float | None = Field(
        None, ge=0, le=2, description="0 is greedy; default: the model's own, else 0.7"
    )
    top_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="keep the likeliest tokens that make up this share; 0 keeps one",
    )
    top_k: int | None = Field(
        None, ge=0, le=2**31 - 1, description="keep this many likeliest tokens; 0 or -1 keeps all"
    )
    min_p: float | None = Field(
        None, ge=0, le=1, description="drop tokens below this share of the likeliest one"
    )
    frequency_penalty: float | None = Field(
        None, ge=-2, le=2, description="taken off a token's logit for each time it was generated"
    )
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="taken off a token's logit once it was generated"
    )
    repetition_penalty: float | None = Field(
        None,
        gt=0,
        le=10,
        description="divides the logit of a token that prompt or reply has had (times it, below "
        "zero), as transformers does; 1 is off; default: the model's own",
    )
    max_tokens: int | None = Field(
        None,
        ge=1,
        lt=2**31,
        description="longest reply, in tokens, but never more than fits; default or -1: 512",
    )
    max_completion_tokens: int | None = Field(
        None, ge=1, lt=2**31, description="OpenAI's newer word for max_tokens"
    )
    stop: StopText | Stops | None = Field(
        None, description="texts that end the reply (and are cut off); empty ones end nothing"
    )
    seed: StrictInt | None = Field(
        None,
        ge=-(2**63),
        lt=2**63,
        description="of the sampling; drawn and told in the receipt if absent",
    )
    n: int | None = Field(
        None, ge=1, le=MAX_N, description="replies to make; the i-th one's seed is seed + i"
    )
    ignore_eos: Switch = Field(
        False, description="run to the last token allowed (benchmarks); not an OpenAI field"
    )
    steering: WireSteering | None = Field(None, description="the extension: what is edited")

    @field_validator("top_k", mode="before")
    @classmethod
    def _keeps_all(cls, value: object) -> object:
        """vLLM says -1 for it."""
        return 0 if value == -1 else value

    @field_validator("max_tokens", "max_completion_tokens", mode="before")
    @classmethod
    def _no_limit(cls, value: object) -> object:
        """llama.cpp and LM Studio say -1 for it."""
        return None if value == -1 else value

    @model_validator(mode="after")
    def _options_agree(self) -> SamplingFields:
        if self.stream_options is not None and not self.stream:
            raise refuse("stream_options: only with stream true", "stream_options")
        if len({self.max_tokens, self.max_completion_tokens} - {None}) == 2:
            raise refuse(
                f"max_tokens {self.max_tokens} and max_completion_tokens "
                f"{self.max_completion_tokens} disagree: send one of them",
                "max_completion_tokens",
            )
        return self

    @property
    def limit(self) -> int | None:
        asked = self.max_completion_tokens
        return self.max_tokens if asked is None else asked

    @property
    def stops(self) -> tuple[str, ...]:
        """Those that say anything: front ends send "" for a field that nobody filled in."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in stops if stop)

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(SamplingFields):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(
        min_length=1,
        max_length=MAX_MESSAGES,
        fail_fast=True,
        description="the conversation, oldest first",
    )
    logprobs: bool | None = Field(None, description="report each token's log probability")
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="and those of this many likeliest tokens"
    )

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise refuse("top_logprobs: only with logprobs true", "top_logprobs")
        return self

    @property
    def likely(self) -> int | None:
        """How many likeliest tokens to report beside the chosen one; None for no logprobs."""
        return (self.top_logprobs or 0) if self.logprobs else None


TokenIds = Annotated[
    list[Annotated[StrictInt, Field(ge=0, lt=2**31)]], Field(min_length=1, fail_fast=True)
]

Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_REPLIES, fail_fast=True)]
TokenLists = Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_REPLIES, fail_fast=True)]


class CompletionRequest(SamplingFields):
    """POST /v1/completions."""

    unbuilt: ClassVar = {**UNBUILT, "suffix": ("",)}

    prompt: Text | TokenIds | Texts | TokenLists = Field(
        description="a text, a list of token ids, or a list of either"
    )
    logprobs: int | None = Field(
        None, ge=0, le=20, description="report log probabilities of this many likeliest tokens"
    )
    echo: Switch = Field(
        False,
        description="begin with the prompt; with logprobs, its tokens are scored. Not in a stream",
    )
    max_tokens: int | None = Field(
        None,
        ge=0,
        lt=2**31,
        description="longest reply, in tokens, but never more than fits; default or -1: 512; 0, "
        "with echo: the prompt alone",
    )
    max_completion_tokens: int | None = Field(
        None, ge=0, lt=2**31, description="OpenAI's newer word for max_tokens"
    )

    @field_validator("logprobs", mode="before")
    @classmethod
    def _a_number(cls, value: object) -> object:
        if isinstance(value, bool):
            raise refuse("logprobs is a number here (0 to 20), not true or false")
        return value

    @model_validator(mode="after")
    def _not_too_many(self) -> CompletionRequest:
        if len(self.prompts) * (self.n or 1) > MAX_REPLIES:
            raise refuse(
                f"{len(self.prompts)} prompts x n {self.n or 1} is more than the {MAX_REPLIES} "
                "replies one request may ask for: send several requests",
                "n",
            )
        return self

    @model_validator(mode="after")
    def _echoes(self) -> CompletionRequest:
        if self.echo and self.stream:
            raise refuse(
                "echo: a stream does not begin with its prompt here: leave stream out, or echo",
                "echo",
            )
        if self.limit == 0 and not self.echo:
            raise refuse(
                "max_tokens 0 asks for no reply: send 1 or more, or echo true for the prompt's own "
                "tokens",
                "max_tokens",
            )
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        tokens = [token for token in self.prompt if isinstance(token, int)]
        return [tokens] if tokens else [one for one in self.prompt if not isinstance(one, int)]

    @property
    def likely(self) -> int | None:
        return self.logprobs
