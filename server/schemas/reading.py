"""What fires on a text, what tells texts apart, what to steer: bodies that ask, and answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from .base import Text, Wire, refuse
from .listings import FeatureSummary
from .messages import Message
from .requests import MAX_MESSAGES

MAX_TEXTS = 64  # of each of two sets
SetOfTexts = Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True)]


class ReadingBody(Wire):
    """What both have in common."""

    model: str | None = Field(None, max_length=300, description="default: the loaded model")
    dictionary: str | None = Field(
        None, max_length=200, description="whose features; default: the first one"
    )
    limit: int = Field(20, ge=1, le=200, description="features to list")


class ActivationsBody(ReadingBody):
    """POST /v1/features/activations."""

    text: Text | None = Field(None, description="read as it is, without a chat template")
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = Field(
        None, description="a conversation, as /v1/chat/completions takes it"
    )
    top: int = Field(5, ge=0, le=50, description="features to tell of each token")

    @model_validator(mode="after")
    def _one_of_them(self) -> ActivationsBody:
        if (self.text is None) == (self.messages is None):
            raise refuse("text and messages: send one of them, and not both", "text")
        return self


class ContrastBody(ReadingBody):
    """POST /v1/features/contrast."""

    more: SetOfTexts = Field(description="texts that have what is looked for")
    less: SetOfTexts = Field(description="texts like them that do not have it")


class SuggestBody(ReadingBody):
    """POST /v1/features/suggest."""

    wish: Text = Field(min_length=1, max_length=500, description="what the reply is to be like")
    limit: int = Field(3, ge=1, le=20, description="edits to suggest")


class FiredReply(TypedDict):
    ref: str
    label: str | None
    activation: float


class TokenReply(TypedDict):
    """features: the largest first; null at template and special tokens, which are not read."""

    token: str
    features: list[FiredReply] | None


class FiringFeature(FeatureSummary):
    """activation: the largest in the text, at token `at`; mean: over all tokens that are read."""

    activation: float
    at: int
    mean: float


class ActivationsReply(TypedDict):
    """features: first those that come nearest to their maximum and are rare (its share times -ln of
    the density); of a dictionary without cards, the largest activations.
    """

    object: Literal["activations"]
    model: str
    dictionary: str
    tokens: list[TokenReply]
    features: list[FiringFeature]


class TellingFeature(FeatureSummary):
    """mean_more, mean_less: over the tokens of the texts, each text counting the same.
    share_more, share_less: of the texts on which it fires at all.
    """

    mean_more: float
    mean_less: float
    share_more: float
    share_less: float


class ContrastReply(TypedDict):
    """more: features that are higher in `more`, the furthest apart first; less: the other way."""

    object: Literal["contrast"]
    model: str
    dictionary: str
    more: list[TellingFeature]
    less: list[TellingFeature]


class SuggestedEdit(TypedDict):
    """One of `steering.edits`, as it stands. strength: the feature's recommended one."""

    feature: str
    op: str
    strength: float


class Suggestion(FeatureSummary):
    """matched: whether a word of the wish is one of its label, slug or promoted tokens.
    activation: the largest on the wish itself.
    """

    edit: SuggestedEdit
    matched: bool
    activation: float


class SuggestReply(TypedDict):
    """Best first; empty where no feature with a measured strength has to do with the wish."""

    object: Literal["suggestions"]
    model: str
    dictionary: str
    data: list[Suggestion]
