"""The shapes of lists and entries: models, dictionaries, features, presets, readiness."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12


class PresetReply(TypedDict):
    object: Literal["preset"]
    name: str
    title: str
    description: str
    edits: list[dict[str, Any]]
    norm: Literal["keep"] | None
    builtin: bool


class PresetList(TypedDict):
    object: Literal["list"]
    data: list[PresetReply]


class ModelReply(TypedDict):
    """max_model_len: tokens of prompt and reply together, in vLLM's word, which clients look for.
    steering_preset, not preset: Open WebUI hides models that have a key of that name.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    steering_preset: NotRequired[PresetReply]


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelReply]


class SiteReply(TypedDict):
    layer: int
    hook: str


class FitReply(TypedDict):
    """How the dictionary fits the model, measured on plain text when the server started.

    l0: features that fire on a token; expected_l0: how many do as published, if that is known.
    explained: share of the variance of what is read that the dictionary rebuilds; null for a large
    one that is no TopK. warning: a sentence, where the dictionary may not fit this model.
    """

    l0: float
    expected_l0: float | None
    explained: float | None
    tokens: int
    features: int
    warning: str | None


class DictionaryReply(TypedDict):
    id: str
    object: Literal["dictionary"]
    format: str
    architecture: str
    site: SiteReply
    d_in: int
    d_sae: int
    model: str | None
    revision: str
    cards: int
    reads_exactly: bool
    why_not: str
    source: str | None
    fit: FitReply | None


class DictionaryList(TypedDict):
    object: Literal["list"]
    data: list[DictionaryReply]


class Recommended(TypedDict):
    op: str
    strength: float


class FeatureSummary(TypedDict):
    """A line of a search result. band: [onset, breakdown] in multiples of the maximum.
    steerability: the width of the band; 0 where only a recommended strength is known.

    output_score: 0 to 1, of the likeliest promoted token right after one neutral beginning, at ten
    times the largest activation there; it says little of a feature that has a band.
    """

    object: Literal["feature"]
    id: int
    ref: str
    dictionary: str
    label: str | None
    slug: str | None
    density: float | None
    maximum: float | None
    steerability: float | None
    output_score: float | None
    promoted: list[str]
    band: list[float] | None
    recommended: Recommended | None


class FeatureList(TypedDict):
    """total_exact: false where more match than are counted (and can be paged through).
    words: any where no feature has all words that were asked for; these have at least one.
    """

    object: Literal["list"]
    data: list[FeatureSummary]
    words: Literal["all", "any"]
    total: int
    total_exact: bool
    limit: int
    offset: int
    has_more: bool


class HistogramReply(TypedDict):
    edges: list[float]
    counts: list[int]


class ExampleReply(TypedDict):
    """interval: [low, high], the activations among which this text was picked."""

    tokens: list[str]
    activations: list[float]
    interval: list[float] | None


class LogitReply(TypedDict):
    token: str
    logit: float


class FeatureDetail(FeatureSummary):
    """Everything known of one feature. labelled_by: concept, tokens, or a language model's name.

    reach: the strength, in activations, at which `add` moves a token by as much as is there: by the
    median length of the residual at the dictionary's site. A rule of thumb where no band is known.
    """

    labelled_by: str | None
    reach: float | None
    promoted_logits: list[LogitReply]
    suppressed: list[LogitReply]
    histogram: HistogramReply | None
    examples: list[ExampleReply]


class Neighbour(FeatureSummary):
    cosine: float


class NeighbourList(TypedDict):
    """reason: why there are fewer than were asked for."""

    object: Literal["list"]
    data: list[Neighbour]
    reason: NotRequired[str]


class Ready(TypedDict):
    ready: bool
    stage: NotRequired[str]
    progress: NotRequired[float]
    message: NotRequired[str]
