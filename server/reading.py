"""Texts -> the features that fire on them: prompts that are computed for what a dictionary reads.

They wait in the engine's queue as any reply does, and their tokens are computed in chunks beside
the replies that run. Encoding is done afterwards, aside, in turn with other scans.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from dictionaries.cards import Card
from dictionaries.dictionary import Dictionary
from dictionaries.fired import Fired, fired, over_texts

from .deck import Deck, FeatureName
from .engine.text import Prompt, encode_raw
from .engine.types import Delta, Finish, FinishReason, Request, Sampling, Steering
from .errors import BadRequest, GenerationFailed, TooLong
from .jobs import Job
from .prepare import Ask, check_bytes, check_tokens, rendered
from .schemas.reading import ActivationsBody, ContrastBody, ReadingBody
from .steering import Resolved, split_model
from .summaries import summary

WORK = 2e12  # multiplications that one request may cost
CANDIDATES = 1000  # features whose cards are looked at
_USUAL = 0.01  # the density of features of which it is not known
Body = TypeVar("Body", bound=ReadingBody)


def prepare_activations(deck: Deck, body: ActivationsBody) -> Ask:
    if body.messages is None:
        return ask(deck, body, [_raw(deck, body.text or "", "text")])
    return ask(deck, body, [rendered(deck, body.messages)])


def prepare_contrast(deck: Deck, body: ContrastBody) -> Ask:
    texts = [(text, name) for name in ("more", "less") for text in getattr(body, name)]
    return ask(deck, body, [_raw(deck, *text) for text in texts])


def _raw(deck: Deck, text: str, field: str) -> Prompt:
    check_bytes(deck, [text], field)
    return encode_raw(deck.tokenizer, text)


def ask(deck: Deck, body: ReadingBody, prompts: Sequence[Prompt]) -> Ask:
    """Raises NotFound, BadRequest or TooLong for what cannot be read."""
    if split_model(deck, body.model):
        raise BadRequest(f"{body.model!r} is a preset: send {deck.model!r}", param="model")
    dictionary = deck.dictionary(body.dictionary)
    _check_work(dictionary, sum(len(prompt.ids) for prompt in prompts))
    for prompt in prompts:
        check_tokens(deck, len(prompt.ids), "text")
        if not any(prompt.steerable):
            raise BadRequest(
                "there is no token that a dictionary reads: special ones, and a first one that "
                "leads the text, are left out. Send a longer text",
                param="text",
            )
    name = f"read-{secrets.token_hex(12)}"
    requests = [
        Request(
            id=f"{name}/{i}" if i else name,
            prompt=prompt.ids,
            steerable=prompt.steerable,
            sampling=Sampling(temperature=0.0, max_tokens=1),
            raw=True,
            observe=dictionary.info.id,
        )
        for i, prompt in enumerate(prompts)
    ]
    resolved = Resolved(Steering(), {})
    return Ask(name, int(time.time()), deck.model, tuple(requests), resolved, len(prompts))


def _check_work(dictionary: Dictionary, tokens: int) -> None:
    info = dictionary.info
    if not info.reads_exactly:
        raise BadRequest(f"{info.id}: its activations cannot be read: {info.why_not}")
    most = int(WORK / (info.d_in * info.d_sae))
    if tokens > most:
        raise TooLong(
            f"{tokens} tokens came, and of a dictionary as large as {info.id} ({info.d_sae} "
            f"features) {most} can be read at once: send less text",
            param="text",
        )


class Reader(Generic[Body]):
    """Takes the job's ends in, and says in one piece what was read."""

    def __init__(self, job: Job, body: Body) -> None:
        self.job, self.body = job, body
        self._deck = job.deck
        self._dictionary = self._deck.dictionary(body.dictionary)
        self._read: dict[int, Tensor] = {}  # by row, what the dictionary reads at steerable tokens

    def add(self, row: int, event: Delta | Finish) -> None:
        if not isinstance(event, Finish):
            return
        if event.observed is None or event.reason is FinishReason.CANCELLED:
            raise GenerationFailed("the reading of a text was stopped before its end")
        flags = torch.tensor(self.job.ask.requests[row].steerable)
        self._read[row] = event.observed[flags]

    def whole(self) -> dict[str, Any]:
        raise NotImplementedError

    def _fired(self, row: int, top: int) -> Fired:
        return fired(self._dictionary, self._read[row], top)

    def _head(self, kind: str) -> dict[str, Any]:
        return {"object": kind, "model": self._deck.model, "dictionary": self._dictionary.info.id}

    def _names(self, features: Iterable[int]) -> list[FeatureName]:
        return [self._deck.find(f"{self._dictionary.info.id}/{feature}") for feature in features]

    def _ranked(self, scores: Tensor, *, rare: bool = False) -> list[FeatureName]:
        """The features of the largest scores above 0, in parts of their maxima where these are
        known: what one feature calls much is nothing to another. rare: and the more, the fewer
        tokens of the corpus they fire on, as words are weighed in a search.
        """
        n = min(CANDIDATES, int((scores > 0).sum()))
        names = self._names(scores.topk(n).indices.tolist())

        def relative(name: FeatureName) -> float:
            card = name.card or Card(name.feature, "")
            part = float(scores[name.feature]) / (card.maximum or 1.0)
            return part * -math.log(min(card.density or _USUAL, 0.99)) if rare else part

        ranked = sorted(names, key=relative, reverse=True)
        return self._deck.shown(ranked[: self.body.limit])


class ActivationsReader(Reader[ActivationsBody]):
    def whole(self) -> dict[str, Any]:
        found = self._fired(0, max(1, self.body.top))
        (request,) = self.job.ask.requests
        places = [i for i, flag in enumerate(request.steerable) if flag]
        told = dict(zip(places, self._tokens(found), strict=True))
        texts = [self._deck.tokenizer.decode([token]) for token in request.prompt]
        features = [
            {
                **summary(self._deck, name),
                "activation": float(found.most[name.feature]),
                "at": places[int(found.at[name.feature])],
                "mean": float(found.mean[name.feature]),
            }
            for name in self._ranked(found.most, rare=True)
        ]
        tokens = [{"token": text, "features": told.get(i)} for i, text in enumerate(texts)]
        return {**self._head("activations"), "tokens": tokens, "features": features}

    def _tokens(self, found: Fired) -> list[list[dict[str, Any]]]:
        """By token that is read, its features that fire."""
        rows = [
            [(i, v) for i, v in zip(ids, values, strict=True) if v > 0][: self.body.top]
            for ids, values in zip(found.ids.tolist(), found.values.tolist(), strict=True)
        ]
        seen = sorted({i for row in rows for i, _ in row})
        named = dict(zip(seen, self._deck.shown(self._names(seen)), strict=True))
        return [
            [{"ref": named[i].ref, "label": named[i].label, "activation": v} for i, v in row]
            for row in rows
        ]


class ContrastReader(Reader[ContrastBody]):
    def whole(self) -> dict[str, Any]:
        texts = [self._read[row] for row in range(len(self._read))]
        at = len(self.body.more)
        sides = over_texts(self._dictionary, (texts[:at], texts[at:]))
        apart = sides[0].mean - sides[1].mean
        told = {"more": self._ranked(apart), "less": self._ranked(-apart)}

        def numbers(feature: int) -> dict[str, float]:
            return {
                f"{what}_{side}": float(getattr(own, what)[feature])
                for side, own in zip(("more", "less"), sides, strict=True)
                for what in ("mean", "share")
            }

        return self._head("contrast") | {
            side: [{**summary(self._deck, name), **numbers(name.feature)} for name in names]
            for side, names in told.items()
        }
