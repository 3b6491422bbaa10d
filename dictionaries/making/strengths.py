"""How strongly to clamp: from where the concept shows to where the text falls apart."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .causes import system_cause
from .concepts import PROMPTS, Carrier
from .judge import Judge, repetition
from .sheets import Corpus
from .steered import Voice, Wish

log = logging.getLogger("steerdeck.making")

LADDER = (0.25, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
_REACH = (0.12, 0.85)  # what a clamp may add, in lengths of a residual: less is lost, more is noise
_TOKENS = 28  # of a reply
_SHOWS = 0.5  # share of replies about the concept, from which it counts as steered
_LOOPS = 0.2  # mean repetition from which text counts as broken
_STRANGE = 1.3  # nats a token over what the model says under the cause itself
_WEIGHT = 0.25  # of a nat of strangeness against the share that shows


@dataclass(frozen=True, slots=True)
class Band:
    """In multiples of the maximum. onset: the concept shows; breakdown: the text is broken.

    `breakdown` is the end of the grid where nothing broke. shows: share at the recommended one.
    """

    onset: float
    breakdown: float
    recommended: float
    shows: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One feature at one strength, over PROMPTS."""

    strength: float
    shows: float
    loops: float
    strange: float  # nats a token over the calm reference

    @property
    def broken(self) -> bool:
        return self.loops > _LOOPS or self.strange > _STRANGE


def rungs(maximum: float, length: float) -> list[float]:
    """The strengths worth trying on a feature: the ladder's part that is within reach.

    Features differ tenfold in their maximum, so no few multiples of it suit them all.
    length: of a typical residual, in the unit of the activations (decoder rows have length 1).
    """
    low, high = (share * length / maximum for share in _REACH)
    return [s for s in LADDER if low <= s <= high] or [min(LADDER, key=lambda s: abs(s - low))]


def measure(
    voice: Voice,
    judge: Judge,
    corpus: Corpus,
    carriers: Sequence[Carrier],
    maxima: Tensor,
    *,
    length: float,
    seed: int = 0,
) -> dict[str, list[Measured]]:
    """Sweep every carrier over its rungs: slug -> one Measured a strength, rising."""
    rng = random.Random(seed)
    causes = {s.slug: system_cause(s, rng) for s in corpus.sheets}
    settings = [
        (c, s, p)
        for c in carriers
        for s in rungs(float(maxima[c.feature]), length)
        for p in PROMPTS
    ]
    wishes = [Wish(p, c.feature, s * float(maxima[c.feature])) for c, s, p in settings]
    replies = voice.answer(wishes, tokens=_TOKENS, seed=seed)
    asked = [Wish(p, system=causes[c.slug]) for c, _, p in settings]
    surprise = surprisal(voice, asked, replies)
    own = [Wish(p, system=causes[c.slug]) for c in carriers for p in PROMPTS[:2]]
    usual = surprisal(voice, own, voice.answer(own, tokens=_TOKENS, seed=seed))
    reference = sum(usual) / max(1, len(usual))
    log.info("usual surprisal under a cause: %.2f nats a token", reference)
    said: dict[tuple[str, float], list[tuple[str, float]]] = {}
    for (c, s, _), reply, nats in zip(settings, replies, surprise, strict=True):
        said.setdefault((c.slug, s), []).append((reply, nats))
    sweep: dict[str, list[Measured]] = {}
    for (slug, strength), heard in said.items():
        sweep.setdefault(slug, []).append(_measured(slug, strength, heard, judge, reference))
    return sweep


def _measured(
    slug: str, strength: float, heard: list[tuple[str, float]], judge: Judge, reference: float
) -> Measured:
    replies = [reply for reply, _ in heard]
    loops = sum(map(repetition, replies)) / len(replies)
    empty = sum(len(r.split()) < 3 for r in replies) / len(replies)
    strange = math.fsum(nats for _, nats in heard) / len(heard) - reference
    return Measured(strength, judge.rate(slug, replies), max(loops, empty), strange)


def band(measured: Sequence[Measured]) -> Band | None:
    """None where the concept never shows in at least half of the unbroken replies."""
    sound = []
    for m in measured:
        if m.broken:
            break
        sound.append(m)
    showing = [m for m in sound if m.shows >= _SHOWS]
    if not showing:
        return None
    best = max(showing, key=lambda m: m.shows - m.loops - _WEIGHT * max(0.0, m.strange))
    broken = measured[len(sound)].strength if len(sound) < len(measured) else sound[-1].strength
    return Band(showing[0].strength, broken, best.strength, best.shows)


@torch.inference_mode()
def surprisal(voice: Voice, wishes: Sequence[Wish], replies: Sequence[str]) -> list[float]:
    """Nats a token of each reply under the unsteered model, which sees the wish's system prompt."""
    tokenizer, model = voice.tokenizer, voice.site.model
    tokenizer.padding_side = "right"
    out: list[float] = []
    pairs = list(zip(wishes, replies, strict=True))
    for start in range(0, len(pairs), voice.rows):
        chunk = pairs[start : start + voice.rows]
        heads = [
            tokenizer.apply_chat_template(w.messages, add_generation_prompt=True, tokenize=False)
            for w, _ in chunk
        ]
        lengths = [len(tokenizer(h, add_special_tokens=False)["input_ids"]) for h in heads]
        both = [h + reply for h, (_, reply) in zip(heads, chunk, strict=True)]
        inputs = tokenizer(both, add_special_tokens=False, padding=True, return_tensors="pt")
        logits = model(**inputs).logits[:, :-1]
        targets = inputs["input_ids"][:, 1:]
        nats = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        places = torch.arange(1, inputs["input_ids"].shape[1])
        counted = inputs["attention_mask"][:, 1:].bool() & (
            places >= torch.tensor(lengths)[:, None]
        )
        nats = nats.view_as(targets) * counted
        out += (nats.sum(-1) / counted.sum(-1).clamp_min(1)).tolist()
    return out
