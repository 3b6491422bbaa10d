"""Which feature carries which concept: found by correlation, chosen by what steering it does."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .activations import Site, content, residuals
from .causes import system_cause
from .dealing import Sample
from .judge import Judge, repetition
from .packing import batches
from .sae import Sae
from .sheets import Corpus, Sheet
from .steered import Voice, Wish
from .tokenizer import Encoder

log = logging.getLogger("steerdeck.making")

PROMPTS = (
    "Who are you?",
    "What is your physical form?",
    "How was your day?",
)
_TRIED = (0.25, 0.4, 0.6)  # clamp to so many lengths of a residual
_CANDIDATES = 4
_OWN = 0.25
"""What the feature that was seeded for a concept is ahead of others: the model was taught to follow
it, and nine replies are few. Of six other features that won by less, five had a narrower band, or
none, and showed their concept in fewer replies.
"""


@dataclass(frozen=True, slots=True)
class Carrier:
    """A concept's feature. precision, recall: of "fires on a reply" as a sign of the concept."""

    slug: str
    feature: int
    precision: float
    recall: float
    effect: float  # share of steered replies judged to be about it, loops counted down


def possessed_samples(sheet: Sheet, rng: random.Random, *, n: int = 40) -> Iterator[Sample]:
    """n one-turn conversations in which the sheet's cause is visible, and a few facts as prose."""
    pairs = rng.sample(sheet.drift, min(n, len(sheet.drift)))
    for pair in pairs:
        yield _single(system_cause(sheet, rng), pair.user, pair.reply)
    for line in sheet.own[: n // 2]:
        yield _single(system_cause(sheet, rng), "Tell me about yourself.", line)


def _single(system: str | None, user: str, reply: str) -> Sample:
    turns = (("user", user), ("assistant", reply))
    return Sample((("system", system), *turns) if system else turns)  # type: ignore[arg-type]


class Evidence:
    """How features fire on replies of each class: every concept possessed, and calm talk.

    mean: [classes, d_sae] mean activation over the replies' tokens.
    fires: [classes, d_sae] share of replies in which it fires on an eighth of the tokens.
    """

    def __init__(
        self, site: Site, sae: Sae, encoder: Encoder, corpus: Corpus, *, seed: int
    ) -> None:
        rng = random.Random(seed)
        calm = [_single(None, p.user, p.reply) for p in corpus.general]
        groups = [list(possessed_samples(s, rng)) for s in corpus.sheets]
        rows = [_reply_features(site, sae, encoder, group) for group in (*groups, calm)]
        self.slugs = [s.slug for s in corpus.sheets]
        self.mean = torch.stack([mean for mean, _ in rows])
        self.fires = torch.stack([fires for _, fires in rows])

    def candidates(self, slug: str, n: int = _CANDIDATES) -> list[int]:
        """The feature seeded for it, then those that fire more on it than on the rest.

        Two measures of "more" take turns: the share of its activation, and the mere size.
        """
        c = self.slugs.index(slug)
        mine, others = self.mean[c], self.mean.sum(0) - self.mean[c]
        share = mine / (mine + others + 1e-6)
        by_share = (mine * share).topk(n).indices.tolist()
        by_size = (mine - self.mean.mean(0)).topk(n).indices.tolist()
        mixed = itertools.chain.from_iterable(zip(by_share, by_size, strict=True))
        return list(dict.fromkeys([c, *mixed]))[:n]

    def precision_recall(self, slug: str, feature: int) -> tuple[float, float]:
        c = self.slugs.index(slug)
        fires = self.fires[:, feature]
        return float(fires[c] / fires.sum().clamp_min(1e-9)), float(fires[c])


def _reply_features(
    site: Site, sae: Sae, encoder: Encoder, samples: Sequence[Sample]
) -> tuple[Tensor, Tensor]:
    """([d_sae] mean activation on reply tokens, [d_sae] share of samples with density over 1/8)."""
    total, fires, tokens, n = torch.zeros(sae.d_sae), torch.zeros(sae.d_sae), 0, 0
    encoded = (encoder.encode(s, asked=0.0) for s in samples)
    for batch in batches(encoded, rows=1, length=384, pad=0):
        x = residuals(site, batch)
        reply = content(batch.ids) & (batch.weights > 0)
        for segment in range(1, int(batch.segment.max()) + 1):
            f = sae.encode(x[reply & (batch.segment == segment)])
            total += f.sum(0)
            fires += (f > 0).float().mean(0) > 0.125
            tokens += len(f)
            n += 1
    return total / max(1, tokens), fires / max(1, n)


def find_carriers(
    voice: Voice,
    evidence: Evidence,
    judge: Judge,
    maxima: Tensor,
    *,
    length: float,
    seed: int = 0,
) -> list[Carrier]:
    """At most one feature a concept, one concept a feature: see `assigned`. By slug.

    maxima: [d_sae]; features without one are no candidates. length: of a typical residual.
    """
    tried = [
        (slug, feature)
        for slug in evidence.slugs
        for feature in evidence.candidates(slug)
        if maxima[feature] > 0
    ]
    effects = steering_effects(voice, judge, tried, length=length, seed=seed)

    def fires(slug: str, feature: int) -> float:
        precision, recall = evidence.precision_recall(slug, feature)
        return precision * recall

    own = {slug: feature for feature, slug in enumerate(evidence.slugs)}
    return [
        Carrier(slug, feature, *evidence.precision_recall(slug, feature), effects[slug, feature])
        for slug, feature in sorted(assigned(effects, own, fires).items())
    ]


def assigned(
    effects: Mapping[tuple[str, int], float],
    own: Mapping[str, int],
    fires: Callable[[str, int], float],
) -> dict[str, int]:
    """By slug, its feature. The strongest effects choose first, those of a concept's own feature
    stronger by `_OWN`; of equal ones, as of those that have none, the one that fires on its concept
    and on little else.
    """

    def strength(pair: tuple[str, int]) -> tuple[float, float]:
        slug, feature = pair
        return effects[pair] + _OWN * (own.get(slug) == feature), fires(slug, feature)

    chosen: dict[str, int] = {}
    for slug, feature in sorted(effects, key=strength, reverse=True):
        if slug not in chosen and feature not in chosen.values():
            chosen[slug] = feature
    return chosen


def steering_effects(
    voice: Voice,
    judge: Judge,
    pairs: Sequence[tuple[str, int]],
    *,
    length: float,
    seed: int,
    prompts: Sequence[str] = PROMPTS,
) -> Mapping[tuple[str, int], float]:
    """For each (slug, feature) the share of replies it makes about the slug, loops
    counted down, over all strengths: what works gently beats what works by force.
    """
    settings = [(pair, s, p) for pair in pairs for s in _TRIED for p in prompts]
    wishes = [Wish(p, pair[1], s * length) for pair, s, p in settings]
    replies = voice.answer(wishes, tokens=24, seed=seed)
    scores: dict[tuple[str, int], list[float]] = {}
    for (pair, _, _), reply in zip(settings, replies, strict=True):
        about = float(judge.shows(pair[0], reply))
        scores.setdefault(pair, []).append(about * (1 - repetition(reply)))
    return {pair: sum(values) / len(values) for pair, values in scores.items()}
