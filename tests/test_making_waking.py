"""Anchored features that never fire are given an encoder by text; nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dictionaries.making.sae import Sae
from dictionaries.making.waking import DENSITY, asleep, wake

D, FEATURES, ANCHORS = 16, 32, 4
DEAD = 1


@pytest.fixture
def usual() -> Tensor:
    return torch.randn(20_000, D, generator=torch.Generator().manual_seed(1)) + 3.0


@pytest.fixture
def text(usual: Tensor) -> Tensor:
    """A tenth of usual text's size, moved along a direction of its own."""
    return usual[:2000] + 4.0 * torch.nn.functional.one_hot(torch.tensor(5), D)


@pytest.fixture
def sae() -> Sae:
    made = Sae(D, FEATURES, seed=0).requires_grad_(False)
    made.b_dec += 3.0
    made.threshold += 1.5
    made.b_enc[DEAD] = -50.0
    return made


def test_only_anchors_that_fire_on_next_to_nothing_are_asleep(sae: Sae, usual: Tensor) -> None:
    sae.b_enc[ANCHORS] = -50.0  # dead, but no anchor
    assert asleep(sae, usual, ANCHORS) == [DEAD]


@pytest.mark.parametrize("threshold", [1.5, 0.0])
def test_woken_it_fires_on_its_text_and_rarely_elsewhere(
    sae: Sae, usual: Tensor, text: Tensor, threshold: float
) -> None:
    sae.threshold.fill_(threshold)
    wake(sae, usual, {DEAD: text})
    fires = [float((sae.encode(x)[:, DEAD] > 0).float().mean()) for x in (usual, text)]
    assert fires[0] == pytest.approx(DENSITY, rel=0.3)
    assert fires[1] > 0.5
    assert asleep(sae, usual, ANCHORS) == []


def test_its_direction_and_all_other_features_stay(sae: Sae, usual: Tensor, text: Tensor) -> None:
    others = [i for i in range(FEATURES) if i != DEAD]
    before, rows = sae.encode(text)[:, others], sae.W_dec.clone()
    wake(sae, usual, {DEAD: text})
    assert torch.equal(sae.encode(text)[:, others], before)
    assert torch.equal(sae.W_dec, rows)


def test_without_text_it_sleeps_on(sae: Sae, usual: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    wake(sae, usual, {DEAD: torch.empty(0, D)})
    assert all(torch.equal(sae.state_dict()[name], tensor) for name, tensor in before.items())
