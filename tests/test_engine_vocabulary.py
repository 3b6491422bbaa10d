"""What is asked of rows of logits: the same by our own code and by torch, a row's own affair."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from server.engine import vocabulary
from server.engine.native.build import able
from server.engine.vocabulary import divergences, entropies, likeliest, logprobs

INF = math.inf
VOCABS = [1, 7, 8, 9, 259, 4099, 49152]


@pytest.fixture(params=["ours", "torch"], autouse=True)
def code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    torch.manual_seed(0)
    if request.param == "torch":
        monkeypatch.setattr(vocabulary, "able", lambda: False)
    elif not able():
        pytest.skip("our own code cannot be compiled here")
    return str(request.param)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("count", [0, 1, 5, 256])
def test_the_likeliest_are_torchs(vocab: int, count: int) -> None:
    logits, temperatures = 3 * torch.randn(5, vocab), [1.0, 0.3, 0.7, 2.0, 1e-5]
    found = likeliest(logits, count, temperatures)
    scores = logits / torch.tensor(temperatures)[:, None]
    count = min(count, vocab)
    assert torch.equal(found.scores, scores.topk(count).values)
    assert torch.equal(scores.gather(-1, found.ids), found.scores)
    assert all(len(set(ids)) == count for ids in found.ids.tolist())
    expected = scores.double().logsumexp(-1)
    torch.testing.assert_close(found.totals, expected, rtol=1e-6, atol=1e-6)


def test_equal_ones_come_by_token(code: str) -> None:
    if code == "torch":
        pytest.skip("torch promises no order")
    logits = torch.randint(0, 4, (3, 5000)).float()
    logits[2] = 0.0
    logits[1, :4990] = -INF
    for one, ids in zip(logits, likeliest(logits, 300, [0.5] * 3).ids, strict=True):
        assert torch.equal(ids, one.sort(descending=True, stable=True).indices[:300])


@pytest.mark.parametrize("spoilt", [math.nan, INF, -INF])
def test_a_row_without_a_distribution_is_told_from_its_neighbours(spoilt: float) -> None:
    logits = torch.randn(3, 1000)
    alone = likeliest(logits[2:], 20)
    logits[1, slice(None) if spoilt < 0 else slice(500, 501)] = spoilt
    found = likeliest(logits, 20)
    assert found.totals.isfinite().tolist() == [True, False, True]
    for a, b in zip(found, alone, strict=True):
        assert torch.equal(a[2], b[0])


def test_log_probabilities_are_of_the_row_as_it_is() -> None:
    logits = torch.randn(3, 900)
    exact = logits.double().log_softmax(-1)
    told = logprobs(logits, [4, 5, 899], [0, 2, 3], likeliest(logits, 3))
    for row, token, n, one in zip(exact, [4, 5, 899], [0, 2, 3], told, strict=True):
        best = row.topk(n)
        assert one.logprob == pytest.approx(row[token].item(), abs=1e-6)
        assert [id for id, _ in one.top] == best.indices.tolist()
        assert [value for _, value in one.top] == pytest.approx(best.values.tolist(), abs=1e-6)


@pytest.mark.parametrize("vocab", VOCABS)
def test_a_divergence_is_that_of_the_two_distributions(vocab: int) -> None:
    own, other = 2 * torch.randn(2, 4, vocab)
    other[3] = own[3] + 1e-3 * torch.randn(vocab)
    p, q = own.double().log_softmax(-1), other.double().log_softmax(-1)
    expected = (p.exp() * (p - q)).sum(-1).tolist()
    assert compared(own, other) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert compared(own, own.clone()) == [0.0] * 4


def test_what_has_no_chance_adds_nothing_and_what_comes_against_all_odds_everything() -> None:
    never, half = torch.tensor([0.0, 0.0, -INF]), torch.tensor([0.0, -INF, -INF])
    pairs = [(never, torch.zeros(3)), (never, never), (never, half), (half, never)]
    own, other = (torch.stack(side) for side in zip(*pairs, strict=True))
    assert compared(own, other) == pytest.approx([math.log(1.5), 0.0, INF, math.log(2)])


def test_entropy_is_that_of_the_distribution() -> None:
    even, sure = torch.zeros(8), torch.tensor([0.0, *[-INF] * 7])
    assert entropies([even, sure]) == pytest.approx([math.log(8), 0.0])
    logits = 2 * torch.randn(3, 5000)
    exact = torch.distributions.Categorical(logits=logits.double()).entropy()
    assert entropies(logits) == pytest.approx(exact.tolist(), rel=1e-6)


def test_what_is_told_of_a_row_hangs_on_nothing_else(code: str, threads) -> None:
    if code == "torch":
        pytest.skip("torch rounds by how many rows there are")
    own, other = 2 * torch.randn(2, 6, 5001)
    threads(1)
    together = told(own, other, 9)
    threads(2)
    assert told(own, other, 300)[2:] == together[2:]
    for i in range(6):
        alone = told(own[i : i + 1], other[i : i + 1], 9)
        assert [part[i : i + 1] for part in together] == alone


def told(own: Tensor, other: Tensor, count: int) -> list[list[object]]:
    found = [part.tolist() for part in likeliest(list(own), count)]
    return [*found, compared(own, other), entropies(list(own))]


def compared(own: Tensor, other: Tensor) -> list[float]:
    return divergences(list(own), list(other), likeliest(own, 0).totals, likeliest(other, 0).totals)
