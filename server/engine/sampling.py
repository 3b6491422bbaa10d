"""Choosing tokens, each row by its own parameters and its own generator.

A request draws uniform numbers from its own torch.Generator and nothing else does, so its seed
gives the same tokens whoever its neighbours are. A token is chosen by inverting the cumulative
distribution over the most likely tokens first. Order of the filters: penalties, temperature, then
top_k, top_p of what top_k left, and min_p of the most likely: each keeps a prefix of that order.

Only the 256 most likely are sorted; they decide exactly if the kept prefix, or the number drawn,
ends among them. Else the whole vocabulary is sorted, for those rows alone.

Log probabilities are the model's own: of the steered logits, before penalties and temperature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .types import Sampling
from .vocabulary import Likeliest, likeliest, logprobs

CANDIDATES = 256
_BLOCK = 64  # uniform numbers drawn at a time
COLDEST = 1e-5  # below it logits / temperature overflows, and the likeliest token comes anyway


class Sampler:
    """What one request needs to choose its tokens."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int] = ()) -> None:
        self.sampling = sampling
        self.greedy = sampling.temperature < COLDEST
        self.counts: dict[int, int] = {}  # of generated tokens, kept for OpenAI's penalties
        # Each token once, for the repetition penalty. Kept as a tensor: making one of a long
        # prompt takes a millisecond.
        self.seen: Tensor | None = None
        self._known: set[int] = set()
        self._counting = sampling.frequency_penalty != 0.0 or sampling.presence_penalty != 0.0
        if sampling.repetition_penalty != 1.0:
            self._known.update(prompt)
            self.seen = torch.tensor(list(self._known), dtype=torch.long)
        self._generator = torch.Generator().manual_seed(sampling.seed % 2**63)
        self._block: list[float] = []
        self._drawn: list[float] = []  # in the step under way

    def draw(self) -> float:
        """The request's next uniform number in [0, 1)."""
        if not self._block:
            drawn = torch.rand(_BLOCK, generator=self._generator, dtype=torch.float64)
            self._block = drawn.tolist()[::-1]
        self._drawn = [self._block.pop()]
        return self._drawn[0]

    def take_back(self) -> None:
        """The step under way did not count: what it drew is drawn again."""
        self._block += self._drawn
        self._drawn = []

    def chose(self, token: int) -> None:
        self._drawn = []
        if self._counting:
            self.counts[token] = self.counts.get(token, 0) + 1
        if self.seen is not None and token not in self._known:
            self._known.add(token)
            self.seen = torch.cat([self.seen, torch.tensor([token])])


@dataclass(frozen=True, slots=True)
class Choice:
    """A row's next token, -1 if its logits are not finite; logprobs only when asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def choose(logits: Tensor, samplers: Sequence[Sampler]) -> list[Choice]:
    """The next token of every row of logits [rows, vocab]."""
    scores = _penalised(logits, samplers)
    tokens = [-1] * len(samplers)
    greedy = [i for i, sampler in enumerate(samplers) if sampler.greedy]
    drawn = [i for i, sampler in enumerate(samplers) if not sampler.greedy]
    if greedy:
        for i, token in zip(greedy, _likeliest(rows(scores, greedy)), strict=True):
            tokens[i] = token
    if drawn:
        own = [samplers[i].sampling for i in drawn]
        numbers = np.array([samplers[i].draw() for i in drawn])
        for i, token in zip(drawn, invert(rows(scores, drawn), own, numbers), strict=True):
            tokens[i] = token
    choices = [Choice(token) for token in tokens]
    asked = [i for i, s in enumerate(samplers) if s.sampling.logprobs is not None]
    asked = [i for i in asked if tokens[i] >= 0]
    if asked:
        wanted = [samplers[i].sampling.logprobs or 0 for i in asked]
        found = with_logprobs(rows(logits, asked), [tokens[i] for i in asked], wanted)
        for i, choice in zip(asked, found, strict=True):
            choices[i] = choice
    return choices


def _likeliest(logits: Tensor) -> list[int]:
    """argmax, -1 where that is not finite; on a CPU numpy's, which takes a fifteenth of the time
    that torch's takes for several rows.
    """
    if logits.device.type != "cpu" or logits.dtype == torch.bfloat16:
        best = logits.argmax(-1, keepdim=True)
        found: list[int] = torch.where(logits.gather(-1, best).isfinite(), best, -1)[:, 0].tolist()
        return found
    scores = logits.detach().numpy()
    places = scores.argmax(-1).tolist()
    return [at if math.isfinite(row[at]) else -1 for row, at in zip(scores, places, strict=True)]


def rows(logits: Tensor, wanted: list[int]) -> Tensor:
    """Some rows of the logits, in ascending order; all of them are not copied."""
    return logits if len(wanted) == len(logits) else logits[wanted]


def _penalised(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """What was said in prompt or reply, divided by repetition_penalty (times it below zero), as
    transformers does; then OpenAI's: minus count * frequency_penalty, minus presence_penalty where
    count > 0.

    In float32: near 20, bfloat16 has a number every 0.125 and would lose a small penalty.
    """
    if not any(sampler.counts or sampler.seen is not None for sampler in samplers):
        return logits
    logits = logits.to(torch.float32, copy=True)
    for row, sampler in zip(logits, samplers, strict=True):
        if sampler.seen is not None:
            seen = sampler.seen.to(logits.device)
            had, penalty = row[seen], sampler.sampling.repetition_penalty
            row[seen] = torch.where(had < 0, had * penalty, had / penalty)
        if sampler.counts:
            ids = torch.tensor(list(sampler.counts), device=logits.device)
            counts = torch.tensor(list(sampler.counts.values()), device=logits.device)
            sampling = sampler.sampling
            row[ids] -= counts * sampling.frequency_penalty + sampling.presence_penalty
    return logits


def invert(
    logits: Tensor, samplings: Sequence[Sampling], numbers: NDArray[np.float64]
) -> list[int]:
    """The token at that point of each row's filtered distribution; -1 if it is not finite."""
    temperatures, vocab = [s.temperature for s in samplings], logits.shape[-1]
    found = likeliest(logits, CANDIDATES, temperatures)
    tokens, exact = _invert(found, samplings, numbers, vocab)
    again = [i for i, settled in enumerate(exact) if not settled]
    if again:
        divisors = torch.tensor([temperatures[i] for i in again], device=logits.device)
        scores, ids = in_order(logits[again].float() / divisors[:, None])
        own, drawn = [samplings[i] for i in again], numbers[again]
        every = Likeliest(scores, ids, found.totals[again])
        redone, _ = _invert(every, own, drawn, vocab)
        for i, token in zip(again, redone, strict=True):
            tokens[i] = token
    return tokens


def in_order(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 scores [rows, n] and their places, greatest first, equal ones by place.

    torch's stable sort. On a CPU numpy sorts whole numbers in half the time that torch takes for
    numbers with places, so each score becomes one, in whose lower half its place stands.
    """
    if scores.device.type != "cpu":
        return scores.sort(dim=-1, descending=True, stable=True)
    order = torch.stack([torch.from_numpy(_places(row)) for row in scores.numpy()])
    return scores.gather(-1, order), order


def _places(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Of scores [n], the greatest first."""
    bits = (scores + np.float32(0)).view(np.uint32)  # of two zeros one
    falling = np.where(bits >> 31, bits, ~bits & np.uint32(0x7FFFFFFF))
    keys = falling.astype(np.uint64) << 32 | np.arange(len(scores), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _invert(
    found: Likeliest, samplings: Sequence[Sampling], numbers: NDArray[np.float64], vocab: int
) -> tuple[list[int], list[bool]]:
    """Tokens, and whether the candidates in hand were enough to be sure."""
    values, ids, totals = _on_host(found)
    broken = ~np.isfinite(totals)
    values, totals = np.where(broken, 0.0, values), np.where(broken, 0.0, totals)
    count = values.shape[1]
    whole = count == vocab
    p = np.exp(values - totals)
    mass = p.cumsum(axis=1)
    top_k = _column([min(s.top_k or vocab, vocab) for s in samplings])
    top_p, min_p = _column([s.top_p for s in samplings]), _column([s.min_p for s in samplings])
    rank = np.arange(count)
    within = np.minimum(top_k, count).astype(np.int64) - 1
    left = np.where(top_k >= vocab, 1.0, np.take_along_axis(mass, within, axis=1))
    unfiltered = (top_k >= vocab) & (top_p >= 1.0) & (min_p <= 0.0)
    keep = (rank < top_k) & (mass - p < top_p * left) & (p >= min_p * p[:, :1])
    keep |= unfiltered
    keep[:, 0] = True
    kept = keep.sum(axis=1, keepdims=True)
    # The float32 total is a millionth off: of a whole vocabulary, what is in hand is all there is.
    all_of_it = mass[:, -1:] if whole else 1.0
    reach = np.where(unfiltered, all_of_it, np.take_along_axis(mass, kept - 1, axis=1))
    point = numbers[:, None] * reach
    rank_chosen = np.minimum((mass <= point).sum(axis=1, keepdims=True), kept - 1)
    exact = whole | (~unfiltered & (kept < count)) | (unfiltered & (point < mass[:, -1:]))
    exact &= (top_k <= count) | (top_k >= vocab) | whole  # else `left` is not known
    tokens = np.take_along_axis(ids, rank_chosen, axis=1)
    tokens[broken] = -1
    return tokens[:, 0].tolist(), (exact | broken)[:, 0].tolist()


def _on_host(
    found: Likeliest,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """As numpy arrays, totals in a column. From a GPU in one copy, since each waits for the
    device: float64 holds the ids exactly.
    """
    scores, order, total = found.scores.double(), found.ids, found.totals[:, None]
    if scores.device.type == "cpu":
        return scores.numpy(), order.numpy(), total.numpy()
    count = scores.shape[1]
    all_of_it = torch.cat([scores, order.double(), total], dim=1).cpu().numpy()
    values, ids, totals = np.split(all_of_it, [count, 2 * count], axis=1)
    return values, ids.astype(np.int64), totals


def _column(values: list[float] | list[int]) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)[:, None]


def with_logprobs(logits: Tensor, tokens: list[int], wanted: list[int]) -> list[Choice]:
    """The choices with their own log probability and those of the `wanted` most likely tokens."""
    found = likeliest(logits, max(wanted))
    told = logprobs(logits, tokens, wanted, found)
    return [Choice(token, *one) for token, one in zip(tokens, told, strict=True)]
