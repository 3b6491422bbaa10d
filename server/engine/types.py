"""What goes into the engine and what comes out: values without torch, HTTP or threads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from dictionaries.edits import Edit, Op

from .conditions import ALWAYS, Condition, Met, Timing
from .guard import Alarm, Guard

if TYPE_CHECKING:
    from torch import Tensor

    from .vectors import Vector


class Where(StrEnum):
    """The tokens an edit acts on. Template and special tokens are never among them."""

    ALL = "all"
    PROMPT = "prompt"
    GENERATED = "generated"


@dataclass(frozen=True, slots=True)
class FeatureEdit:
    """One resolved edit: `strength` and the four numbers of `edit` are in plain activations.

    vector: what is added, where that is no feature of a loaded dictionary. `dictionary` is then
    `vectors.mounted` of its site, and `feature` 0.
    """

    dictionary: str
    feature: int
    op: Op
    strength: float
    edit: Edit
    where: Where = Where.ALL
    timing: Timing = ALWAYS
    vector: Vector | None = None

    @property
    def ref(self) -> str:
        """As a request names it."""
        return self.vector.ref if self.vector else f"{self.dictionary}/{self.feature}"


@dataclass(frozen=True, slots=True)
class Steering:
    """Everything that is edited in one reply. Empty is the unsteered model.

    aborts: the first of them to hold on any token, of the prompt too, ends the reply.
    """

    edits: tuple[FeatureEdit, ...] = ()
    keep_norm: bool = False
    aborts: tuple[Condition, ...] = ()

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Every different one."""
        asked = [*(edit.timing.when for edit in self.edits), *self.aborts]
        return tuple(dict.fromkeys(one for one in asked if one is not None))


@dataclass(frozen=True, slots=True)
class Change:
    """From generated token `at` (0 = the first) on, the reply is steered this way."""

    at: int
    steering: Steering


@dataclass(frozen=True, slots=True)
class Sampling:
    """OpenAI's sampling parameters and some of others. temperature 0 is greedy; top_k 0, top_p 1,
    min_p 0 and repetition_penalty 1 are off.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    logprobs: int | None = None  # None: none; n: the chosen token's and the n most likely ones'
    ignore_eos: bool = False  # for benchmarks: run to max_tokens


@dataclass(frozen=True, slots=True)
class Request:
    """One reply to make.

    steerable: one flag a prompt token; no edit touches the others: the first, the template's and
    special ones.
    raw: the prompt is no chat's, so whatever marks of thinking are in it count.
    observe: a dictionary; what it is given to read at the prompt's tokens is told at the end.
    echo: the prompt's tokens are told at the end, with their log probabilities where `sampling`
    asks for any. Then max_tokens may be 0; and an end-of-text token that ends the reply is told,
    since who reads prompt and reply in one list takes the last one to be generated.
    changes: steering to switch to at given generated tokens, in order: how a receipt of a reply
    that was steered live is replayed.
    trace: report each edit's activation before and after with every token.
    kl, top: report how every token's distribution differs from the unsteered model's on the same
    tokens, with that many of the likeliest tokens of each. Either takes a second row.
    """

    id: str
    prompt: tuple[int, ...]
    steerable: tuple[bool, ...]
    sampling: Sampling
    steering: Steering = Steering()
    changes: tuple[Change, ...] = ()
    trace: bool = False
    kl: bool = False
    top: int = 0
    guard: Guard | None = None
    raw: bool = False
    observe: str = ""
    echo: bool = False

    @property
    def scored(self) -> bool:
        """Whether the log probabilities of the prompt's own tokens are wanted."""
        return self.echo and self.sampling.logprobs is not None

    @property
    def shadowed(self) -> bool:
        """Whether an unsteered row is computed beside it."""
        guarded = self.guard is not None and self.guard.kl is not None
        return self.kl or self.top > 0 or guarded


@dataclass(frozen=True, slots=True)
class Likely:
    """A candidate for a token and its log probability."""

    id: int
    text: str
    bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Reading:
    """An edited feature's activation at the position a token was sampled from."""

    dictionary: str
    feature: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Contrast:
    """The steered model beside the unsteered one, each asked what comes after the same tokens.

    Both are the models' own distributions, before penalties and temperature.
    kl: KL(steered || unsteered) in nats; exactly 0 as long as nothing was edited in this reply.
    logprob, unsteered_logprob: of the token that came.
    top, unsteered_top: the likeliest tokens of each, as many as asked for.
    """

    kl: float
    logprob: float
    unsteered_logprob: float
    top: tuple[Likely, ...] = ()
    unsteered_top: tuple[Likely, ...] = ()


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    `logprob` and `top` only when asked for, `readings` only when traced, `contrast` only when the
    request is `shadowed`.
    """

    id: int
    text: str
    bytes: bytes = b""
    logprob: float | None = None
    top: tuple[Likely, ...] = ()
    readings: tuple[Reading, ...] = ()
    contrast: Contrast | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step adds to a reply.

    `text` may lag behind `tokens`: half a character or what might become a stop string is held
    back. The texts of all deltas joined are the reply. alarms: the guard's, about these tokens.
    """

    text: str
    tokens: tuple[Token, ...]
    alarms: tuple[Alarm, ...] = ()


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ABORT = "steering_abort"
    GUARD = "steering_guard"


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a reply, exactly once. `timeline` is the steering that acted, from which token on.

    tokens_edited: positions (prompt and generated) at which at least one edit was active.
    conditions: every one that was watched.
    cached_tokens: prompt tokens whose keys and values were known; all else is as if they were not.
    arithmetic: what its steps ran on: eager, compiled, or one after the other.
    observed: float32 [prompt tokens, d_in] on the CPU, as `Dictionary.encode` takes it: before any
    edit at this very site. Only where it was asked for.
    prompt: its tokens, for `echo`. The first has no log probability, nor has one that was not
    computed because the reply was stopped before.
    """

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    tokens_edited: int
    timeline: tuple[Change, ...]
    conditions: tuple[Met, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    cached_tokens: int = 0
    arithmetic: tuple[str, ...] = ()
    observed: Tensor | None = None
    prompt: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """The other end of a reply, exactly once: the step it was in raised."""

    message: str


Event = Delta | Finish | Failure
