"""Sampling: every filter by its definition, every row by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from server.engine.sampling import CANDIDATES, Sampler, choose, in_order, invert
from server.engine.types import Sampling

VOCAB = 600  # more than the candidates that are looked at first


def logits(rows: int = 1, *, spread: float = 2.0, seed: int = 0, vocab: int = VOCAB) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def defined(row: Tensor, sampling: Sampling) -> Tensor:
    """The filtered distribution, straight from the definitions, over the whole vocabulary."""
    p = (row.double() / sampling.temperature).softmax(-1)
    order = p.argsort(descending=True).tolist()
    if sampling.top_k:
        order = order[: sampling.top_k]
    total = sum(p[i].item() for i in order)
    kept, mass = [], 0.0
    for i in order:
        if kept and mass >= sampling.top_p * total:
            break
        kept.append(i)
        mass += p[i].item()
    kept = [i for i in kept if p[i] >= sampling.min_p * p[order[0]]]
    out = torch.zeros_like(p)
    out[kept] = p[kept]
    return out / out.sum()


def implied(row: Tensor, sampling: Sampling, steps: int = 5_000) -> Tensor:
    """The distribution that inverting evenly spaced numbers gives."""
    numbers = (np.arange(steps) + 0.5) / steps
    counts = torch.zeros(row.shape[-1], dtype=torch.float64)
    for part in np.array_split(numbers, 10):
        tokens = invert(row.expand(len(part), -1), [sampling] * len(part), part)
        counts += torch.bincount(torch.tensor(tokens), minlength=row.shape[-1])
    return counts / steps


def test_a_number_next_to_one_takes_the_token_that_it_falls_on() -> None:
    """Not the last of the vocabulary, because float32 masses add up to a millionth less than 1, nor
    the one at which they reach 1.
    """
    logits = 4 * torch.randn(64, 20_000, generator=torch.Generator().manual_seed(0))
    number = 1 - 1e-7
    tokens = invert(logits, [Sampling()] * 64, np.full(64, number))
    exact = logits.double().softmax(-1).sort(dim=-1, descending=True, stable=True)
    expected = (exact.values.cumsum(-1) < number).sum(-1, keepdim=True)
    assert tokens == exact.indices.gather(-1, expected)[:, 0].tolist()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.4},
        {"temperature": 3.0},
        {"top_p": 0.5},
        {"top_p": 0.999, "temperature": 3.0},
        {"top_k": 7},
        {"top_k": 400, "temperature": 3.0},
        {"min_p": 0.1},
        {"min_p": 0.0001, "temperature": 4.0},
        {"top_k": 50, "top_p": 0.8, "min_p": 0.05, "temperature": 1.5},
        {"top_k": 300, "top_p": 0.99, "temperature": 2.0},
        {"top_p": 0.0},
    ],
)
def test_the_filters_keep_what_their_definitions_keep(options: dict[str, Any]) -> None:
    sampling = Sampling(**options)
    expected = defined(logits()[0], sampling)
    got = implied(logits()[0], sampling)
    # Evenly spaced numbers hit each token to within one of them.
    assert (got - expected).abs().max() <= 1.01 / 5_000
    assert not got[expected == 0].any()


def test_some_of_those_need_more_than_the_first_candidates() -> None:
    for options in ({"temperature": 3.0}, {"top_k": 400, "temperature": 3.0}):
        assert (defined(logits()[0], Sampling(**options)) > 1e-9).sum() > CANDIDATES


def test_scores_come_in_torchs_stable_order() -> None:
    """Equal ones by place, both zeros equal, infinities at the ends."""
    generator = torch.Generator().manual_seed(4)
    scores = (3 * torch.randn(4, 3000, generator=generator)).round()
    scores[1] = torch.randn(3000, generator=generator)
    scores[2, 7:2000:5] = -0.0
    scores[3, 11], scores[3, 12] = -torch.inf, torch.inf
    before = scores.clone()
    values, places = in_order(scores)
    expected = scores.sort(dim=-1, descending=True, stable=True)
    assert torch.equal(values, expected.values)
    assert torch.equal(places, expected.indices)
    assert torch.equal(scores, before)


def test_rows_are_sampled_as_if_alone() -> None:
    options = [
        {"temperature": 0.0},
        {"temperature": 0.7, "seed": 3},
        {"temperature": 1.5, "top_p": 0.3, "seed": 4},
        {"top_k": 2, "seed": 5, "frequency_penalty": 1.0},
        {"temperature": 2.0, "min_p": 0.2, "seed": 3},
        {"temperature": 0.5, "repetition_penalty": 1.5, "seed": 3},
    ]
    crowd = [Sampler(Sampling(**one)) for one in options]
    alone = [Sampler(Sampling(**one)) for one in options]
    for step in range(30):
        rows = logits(len(options), seed=step)
        together = choose(rows, crowd)
        for i, sampler in enumerate(alone):
            [own] = choose(rows[i : i + 1], [sampler])
            assert own == together[i]
            sampler.chose(own.token)
            crowd[i].chose(own.token)


def test_greedy_takes_the_first_of_the_largest_as_argmax_does() -> None:
    rows = torch.zeros(3, 50)
    rows[1, [7, 30]] = 1.0
    rows[2, 49] = 1.0
    choices = choose(rows, [Sampler(Sampling(temperature=0.0)) for _ in range(3)])
    assert [choice.token for choice in choices] == rows.argmax(-1).tolist()


def test_a_seed_is_a_fixed_stream_of_numbers() -> None:
    first, again, other = (Sampler(Sampling(seed=seed)) for seed in (9, 9, 10))
    numbers = [first.draw() for _ in range(200)]
    assert numbers == [again.draw() for _ in range(200)]
    assert numbers[:64] != [other.draw() for _ in range(64)]
    assert all(0.0 <= number < 1.0 for number in numbers)


def test_penalties_follow_openais_formula() -> None:
    row = logits(1, vocab=8)
    sampler = Sampler(Sampling(temperature=0.0, frequency_penalty=0.5, presence_penalty=0.25))
    counts = torch.zeros(8)
    for _ in range(40):
        penalised = row[0] - 0.5 * counts - 0.25 * (counts > 0)
        [choice] = choose(row, [sampler])
        assert choice.token == penalised.argmax().item()
        sampler.chose(choice.token)
        counts[choice.token] += 1
    assert (counts > 0).sum() > 3
    assert torch.equal(row, logits(1, vocab=8)), "the caller's logits are left alone"


def test_the_repetition_penalty_is_transformers_own() -> None:
    """Over prompt and reply, once for each token, however often it came."""
    prompt = [3, 5, 3, 7]
    sampler = Sampler(Sampling(temperature=0.0, repetition_penalty=1.7), prompt)
    processor, said = RepetitionPenaltyLogitsProcessor(1.7), list(prompt)
    for step in range(12):
        row = logits(1, vocab=8, seed=step)
        [choice] = choose(row, [sampler])
        assert choice.token == processor(torch.tensor([said]), row.clone()).argmax().item()
        assert torch.equal(row, logits(1, vocab=8, seed=step))
        sampler.chose(choice.token)
        said.append(choice.token)
    assert len(set(said)) > 4


def test_a_small_penalty_counts_in_half_precision_too() -> None:
    """Between 16 and 32 bfloat16 has only multiples of an eighth."""
    row = torch.tensor([[20.0, 19.9375]]).bfloat16()  # the second is rounded to 20 as well
    sampler = Sampler(Sampling(temperature=0.0, frequency_penalty=0.06))
    sampler.chose(0)
    assert [choice.token for choice in choose(row, [sampler])] == [1]


def test_logprobs_ignore_temperature_penalties_and_filters() -> None:
    row = logits(1)
    sampling = Sampling(temperature=0.2, top_k=2, presence_penalty=2.0, logprobs=3, seed=1)
    sampler = Sampler(sampling)
    sampler.chose(int(row.argmax()))
    [choice] = choose(row, [sampler])
    expected = row[0].log_softmax(-1)
    assert choice.logprob == pytest.approx(expected[choice.token].item())
    assert [i for i, _ in choice.top] == expected.topk(3).indices.tolist()
    assert [p for _, p in choice.top] == pytest.approx(expected.topk(3).values.tolist())


def test_logprobs_of_several_rows_are_each_rows_own() -> None:
    rows = logits(4)
    wanted = [None, 0, 5, 2]
    options = [Sampling(seed=i, logprobs=n) for i, n in enumerate(wanted)]
    choices = choose(rows, [Sampler(one) for one in options])
    assert choices[0].logprob is None
    for row, choice, n in list(zip(rows, choices, wanted, strict=True))[1:]:
        assert choice.logprob == pytest.approx(row.log_softmax(-1)[choice.token].item())
        assert [i for i, _ in choice.top] == row.topk(n).indices.tolist()


def test_a_temperature_next_to_nothing_is_greedy() -> None:
    rows = logits(2) * 100
    samplers = [Sampler(Sampling(temperature=t)) for t in (1e-30, 1e-4)]
    assert [choice.token for choice in choose(rows, samplers)] == rows.argmax(-1).tolist()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_choose_nothing_and_harm_nobody(
    broken: float, temperature: float
) -> None:
    rows = logits(3)
    rows[1, 5] = broken
    samplers = [Sampler(Sampling(temperature=temperature, seed=i)) for i in range(3)]
    tokens = [choice.token for choice in choose(rows, samplers)]
    assert tokens[1] == -1
    assert min(tokens[0], tokens[2]) >= 0


def test_a_vocabulary_smaller_than_the_candidates_is_no_special_case() -> None:
    row = logits(1, vocab=10)
    got = implied(row[0], Sampling(top_p=0.9))
    assert (got - defined(row[0], Sampling(top_p=0.9))).abs().max() <= 1.01 / 5_000
