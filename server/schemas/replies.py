"""The shapes of what is generated, for the type checker and /openapi.json. Built as plain dicts:
they are made once a token, and are ours to get right.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12


class ConditionTold(TypedDict):
    """A condition in activations."""

    feature: str
    op: str
    value: float
    unit: Literal["raw"]
    latch: bool


class WindowTold(TypedDict):
    first: int | None
    last: int | None


class AppliedEdit(TypedDict):
    """An edit as it acts: in activations."""

    feature: str
    op: str
    strength: float
    unit: Literal["raw"]
    where: str
    when: NotRequired[ConditionTold]
    window: NotRequired[WindowTold]
    decay: NotRequired[float]
    thinking: NotRequired[str]
    label: str | None


class FeatureReading(TypedDict):
    """An edited feature before and after, in activations; null if not finite."""

    feature: str
    before: float | None
    after: float | None


class TokenReading(TypedDict):
    """What the edits did at the position a token was sampled from."""

    token: str
    features: list[FeatureReading]


class TokenKl(TypedDict):
    """KL(steered || unsteered) after the same tokens, in nats; null if not finite."""

    token: str
    kl: float | None


class Alternative(TypedDict):
    token: str
    logprob: float


class Outlook(TypedDict):
    """A model's log probability of the token that came, and its likeliest tokens."""

    logprob: float
    top: list[Alternative]


class TokenTop(TypedDict):
    """What was likely with and without steering, after the same tokens."""

    token: str
    steered: Outlook
    unsteered: Outlook


class AlarmTold(TypedDict):
    """The guard noticed something with reply token `at`.

    value: the mean over its window, which crossed `bound`. action: warn, back_off or stop. left:
    the part of the strengths asked for that holds from the next token on.
    """

    at: int
    signal: str
    value: float | None
    bound: float
    action: str
    left: float


class SteeringTold(TypedDict, total=False):
    """The `steering` of a reply or chunk. activations, kl and top: as asked by `trace`, one line a
    token; with n > 1 in one piece, choice after choice.
    """

    id: str
    applied: list[AppliedEdit]
    activations: list[TokenReading]
    kl: list[TokenKl]
    top: list[TokenTop]
    guard: list[AlarmTold]
    receipt: dict[str, Any]
    receipts: list[dict[str, Any]]


class PromptTokensDetails(TypedDict):
    """cached_tokens: of the prompt, what an earlier request had computed under the same edits."""

    cached_tokens: int


class Usage(TypedDict):
    prompt_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens: int
    total_tokens: int


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    content: list[TokenLogprob]
    refusal: None


class TextLogprobs(TypedDict):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class AssistantMessage(TypedDict):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class TextChoice(TypedDict):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str | None


class Head(TypedDict):
    """What every completion object and chunk begins with."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(Head):
    """OpenAI's chat.completion with `steering`."""

    choices: list[ChatChoice]
    usage: Usage
    steering: SteeringTold


class TextCompletion(Head):
    """OpenAI's text_completion with `steering`."""

    choices: list[TextChoice]
    usage: Usage
    steering: SteeringTold


class VariantUsage(TypedDict):
    completion_tokens: int


class ComparedReply(ChatChoice):
    """One variant of a comparison; index 0 is the unsteered reply."""

    label: str
    usage: VariantUsage
    steering: SteeringTold


class Comparison(Head):
    variants: list[ComparedReply]
    usage: Usage


class ErrorBody(TypedDict):
    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(TypedDict):
    """OpenAI's error object: every refusal looks like this."""

    error: ErrorBody


class Changed(TypedDict):
    id: str
    object: Literal["generation.steering"]
    from_token: int
    applied: list[AppliedEdit]


class Deleted(TypedDict):
    id: str
    object: str
    deleted: Literal[True]
