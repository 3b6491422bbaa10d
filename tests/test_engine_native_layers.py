"""Norms, gates, rotations and attention of our own code: float32's, and a row's own affair."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from server.engine.attention import SlotStep
from server.engine.batch import Batch, Span
from server.engine.cache import SlotCache
from server.engine.gpu import plain
from server.engine.native import layers

pytestmark = pytest.mark.skipif(not layers.able(), reason="our own code cannot be compiled here")
HEADS = [(8, 2, 2), (64, 3, 3), (80, 1, 5), (128, 4, 1)]  # dim, key heads, queries of each
ROWS, LONGEST = 5, 150
SPANS = [(4, 30, 41), (6, 0, 9)]  # row, first position, tokens
UNIT = 2.0**-23  # in the last place, relative


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)


def slots(dim: int, kv_heads: int) -> tuple[Tensor, Tensor, SlotStep]:
    """Keys and values, and a pass of rows in the middle of others'."""
    keys, values = torch.randn(2, ROWS + 2, kv_heads, LONGEST, dim)
    positions = [0, LONGEST - 1, *torch.randint(20, LONGEST, (ROWS - 2,)).tolist()]
    return keys, values, step_of(Batch(1, [0] * ROWS, positions, [True] * ROWS, ()))


def step_of(batch: Batch) -> SlotStep:
    return SlotStep(SlotCache(ROWS + 2, LONGEST), batch, torch.device("cpu"))


@pytest.fixture
def on_two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("width", [1, 31, 32, 64, 576, 1001])
def test_a_norm_is_torchs(width: int) -> None:
    x, weight = 3 * torch.randn(2, 7, width), torch.randn(width)
    x[1, 0] = 0
    expected = plain.rms_norm(x.double(), weight.double(), 1e-6)
    found = layers.rms_norm(x, weight, 1e-6)
    torch.testing.assert_close(found.double(), expected, rtol=4 * UNIT, atol=0)
    assert torch.equal(layers.rms_norm(x[:, 3], weight, 1e-6), found[:, 3])


def test_a_gate_is_silu_to_the_last_places() -> None:
    gate = torch.linspace(-80, 100, 100_001)
    found = layers.gated(torch.stack([gate, torch.ones_like(gate)], 1))[:, 0].double()
    expected = torch.nn.functional.silu(gate.double())
    torch.testing.assert_close(found, expected, rtol=4 * UNIT, atol=0)
    far = torch.tensor([[-1e6, 1.0], [-100.0, 1.0], [1e6, 1.0]])
    assert layers.gated(far).flatten().tolist() == pytest.approx([0, 0, 1e6], abs=1e-6)
    assert layers.gated(torch.tensor([[torch.nan, 1.0]])).isnan().all()


def test_a_gate_is_gelu_to_the_last_places_of_what_comes() -> None:
    """It is the difference of two numbers of that size."""
    gate = torch.cat([torch.linspace(-12, 12, 100_001), torch.logspace(-30, 0, 1_001)])
    found = layers.gated(torch.stack([gate, torch.ones_like(gate)], 1), gelu=True)[:, 0].double()
    expected = torch.nn.functional.gelu(gate.double(), approximate="tanh")
    assert ((found - expected).abs() <= 4 * UNIT * gate.abs()).all()
    near = gate.abs() < 1e-3
    torch.testing.assert_close(found[near], expected[near], rtol=8 * UNIT, atol=0)
    far = torch.tensor([[-1e15, 1.0], [1e15, 1.0]])
    assert layers.gated(far, gelu=True).flatten().tolist() == pytest.approx([0, 1e15])
    assert layers.gated(torch.tensor([[torch.nan, 1.0]]), gelu=True).isnan().all()


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("width", [1, 8, 13, 1536])
def test_a_gate_takes_rows_of_any_width(width: int, gelu: bool) -> None:
    both = 4 * torch.randn(3, 5, 2 * width)
    gate, up = both.double().chunk(2, -1)
    act = (
        partial(torch.nn.functional.gelu, approximate="tanh") if gelu else torch.nn.functional.silu
    )
    found = layers.gated(both, gelu=gelu).double()
    torch.testing.assert_close(found, act(gate) * up, rtol=4 * UNIT, atol=40 * UNIT * gelu)


@pytest.mark.parametrize(("dim", "kv_heads", "groups"), HEADS)
def test_what_is_rotated_has_torchs_bits(dim: int, kv_heads: int, groups: int) -> None:
    """So that a key is the same whether a prompt's pass wrote it or a reply's."""
    keys, values, step = slots(dim, kv_heads)
    others = keys.clone(), values.clone()
    made = torch.randn(ROWS, kv_heads * groups + 2 * kv_heads, dim)
    cos, sin = torch.randn(2, ROWS, dim)
    found = layers.turned(made, cos, sin, keys, values, step)
    assert torch.equal(found, plain.turned(made, cos, sin, *others, step))
    assert torch.equal(keys, others[0])
    assert torch.equal(values, others[1])


def exact(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    last: int,
    window: int | None,
    cap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """[heads, dim] of one row, in float64."""
    seen = slice(max(0, last + 1 - window) if window else 0, last + 1)
    groups = len(query) // len(keys)
    k, v = (own[:, seen].double().repeat_interleave(groups, 0) for own in (keys, values))
    scores = 0.3 * (k @ query.double()[..., None])[..., 0]
    if cap is not None:
        scores = (scores / cap).tanh() * cap
    if sinks is not None:
        scores = torch.cat([scores, sinks.double()[:, None]], -1)
    weights = scores.softmax(-1)[:, : k.shape[1]]
    return (weights[:, None] @ v)[:, 0]


@pytest.mark.parametrize("window", [None, 1, 7, 16, 500])
@pytest.mark.parametrize(("dim", "kv_heads", "groups"), HEADS)
def test_a_row_attends_to_its_own_slot_up_to_its_position(
    dim: int, kv_heads: int, groups: int, window: int | None
) -> None:
    keys, values, step = slots(dim, kv_heads)
    positions = step.batch.positions
    for row, last in enumerate(positions, 1):  # what a row must not look at
        keys[row, :, last + 1 :] = values[row, :, last + 1 :] = torch.nan
        if window:
            keys[row, :, : max(0, last + 1 - window)] = torch.nan
    query = torch.randn(ROWS, kv_heads * groups, dim)
    found = layers.attend(query, keys, values, step, window, 0.3)
    for i, last in enumerate(positions):
        expected = exact(query[i], keys[1 + i], values[1 + i], last, window)
        torch.testing.assert_close(found[i].double(), expected, atol=1e-5, rtol=1e-5)
        alone = step_of(Batch(1 + i, [0], [last], [True], ()))
        one = layers.attend(query[i : i + 1], keys, values, alone, window, 0.3)
        assert torch.equal(one[0], found[i])
    across = query.transpose(0, 1).contiguous().transpose(0, 1)  # heads first, as torch has them
    assert torch.equal(layers.attend(across, keys, values, step, window, 0.3), found)


@pytest.mark.parametrize("cap", [None, 0.5, 50.0])
@pytest.mark.parametrize("sunk", [False, True])
@pytest.mark.parametrize(("dim", "kv_heads", "groups"), HEADS)
def test_scores_may_be_capped_and_sinks_may_take_of_the_weight(
    dim: int, kv_heads: int, groups: int, sunk: bool, cap: float | None
) -> None:
    keys, values, step = slots(dim, kv_heads)
    query, heads = 3 * torch.randn(ROWS, kv_heads * groups, dim), kv_heads * groups
    sinks = torch.linspace(-4, 30, heads) if sunk else None
    found = layers.attend(query, keys, values, step, 7, 0.3, cap, sinks)
    for i, last in enumerate(step.batch.positions):
        expected = exact(query[i], keys[1 + i], values[1 + i], last, 7, cap, sinks)
        torch.testing.assert_close(found[i].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize(("dim", "kv_heads", "groups"), HEADS)
def test_a_token_of_a_prompt_gets_what_it_would_get_as_a_row(
    dim: int, kv_heads: int, groups: int, window: int | None, on_two_threads: None
) -> None:
    """Beside rows that decode and another's prompt."""
    keys, values, _ = slots(dim, kv_heads)
    spans = tuple(Span(row, at, (0,) * n, (True,) * n, True) for row, at, n in SPANS)
    together = step_of(Batch(1, [0, 0], [50, 3], [True] * 2, spans))
    places = list(zip(*(one.tolist() for one in together.places), strict=True))
    others, many = (keys.clone(), values.clone()), len(places)
    made, (cos, sin) = torch.randn(many, (groups + 2) * kv_heads, dim), torch.randn(2, many, dim)
    query = layers.turned(made, cos, sin, keys, values, together)
    found = layers.attend(query, keys, values, together, window, 0.3)
    for i, (row, at) in enumerate(places):
        one, alone = slice(i, i + 1), step_of(Batch(row, [0], [at], [True], ()))
        assert torch.equal(layers.turned(made[one], cos[one], sin[one], *others, alone), query[one])
        assert torch.equal(layers.attend(query[one], *others, alone, window, 0.3), found[one])
    assert torch.equal(keys, others[0])
    assert torch.equal(values, others[1])


def test_a_key_that_is_no_number_is_seen_in_what_it_makes() -> None:
    keys, values, step = slots(8, 2)
    query = torch.randn(ROWS, 4, 8)
    before = layers.attended(query, keys, values, step, None, None)
    keys[3, 1, 5] = torch.nan
    found = layers.attended(query, keys, values, step, None, None)
    assert before is not None
    assert found is not None
    assert found[2, 2:].isnan().all()
    found[2, 2:] = before[2, 2:]
    assert torch.equal(found, before)


def test_other_numbers_than_it_knows_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(dim: int = 8, dtype: torch.dtype = torch.float32, longer: int = 0) -> Any:
        keys, values, step = slots(dim, 2)
        values = torch.cat([values, values], -1) if longer else values
        query = torch.randn(ROWS, 4, dim)
        return layers.attended(query, keys.to(dtype), values.to(dtype), step, None, None)

    assert asked() is not None
    assert asked(dim=12) is None
    assert asked(dtype=torch.float64) is None  # slots of others
    assert asked(longer=8) is None
    with pytest.raises(TypeError, match="float64"):
        layers.rms_norm(torch.ones(2, 3).double(), torch.ones(3), 1e-6)
    monkeypatch.setattr(layers, "able", lambda: False)
    assert asked() is None
