"""Layers that read the same numbers make one product, and each gets what it would make alone."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from server.engine.joined import groups, joined, shared, together
from server.engine.linear import side_by_side

WIDTHS = [3, 5, 2]


class Counted:
    """A product of known weights that counts how often it is made."""

    def __init__(self) -> None:
        self.weight = torch.randn(sum(WIDTHS), 4)
        self.made = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.made += 1
        return x @ self.weight.T

    def alone(self, index: int, x: Tensor) -> Tensor:
        return x @ self.weight.split(WIDTHS)[index].T


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_each_gets_its_part_of_one_product_in_any_order(order: tuple[int, ...]) -> None:
    product = Counted()
    parts = shared(product, WIDTHS)
    for _ in range(3):
        x = torch.randn(1, 6, 4)
        for i in order:
            part = parts[i](x)
            torch.testing.assert_close(part, product.alone(i, x))
            assert part.is_contiguous()
    assert product.made == 3


def test_what_is_kept_is_nobody_elses() -> None:
    """Not of other numbers, of the same ones in another shape, nor of those asked for again."""
    product = Counted()
    query, key, _ = shared(product, WIDTHS)
    both = torch.randn(12, 4)
    x = both[:6]
    query(x)
    x.copy_(torch.randn(6, 4))  # a buffer that is used again, by a layer that asks for less
    torch.testing.assert_close(query(x), product.alone(0, x))
    for other in (torch.randn(6, 4), x[:3], both[::2]):
        query(x)
        torch.testing.assert_close(key(other), product.alone(1, other))


def test_joined_layers_are_known_by_what_they_share() -> None:
    product = Counted()
    layers = [nn.Linear(4, n) for n in WIDTHS]
    with pytest.raises(ValueError, match="not joined"):
        joined(layers)
    for layer, part in zip(layers, shared(product, WIDTHS), strict=True):
        layer.forward = part
    assert joined(layers) is product is together(layers)
    for others in ([*layers[:2], nn.Linear(4, 2)], layers[::-1], layers[1:], layers[:2]):
        with pytest.raises(ValueError, match="not joined"):
            joined(others)
        x = torch.randn(2, 4)
        side_by_side = torch.cat([layer(x) for layer in others], -1)
        torch.testing.assert_close(together(others)(x), side_by_side)


def test_a_single_layer_has_its_product_to_itself() -> None:
    product = Counted()
    assert shared(product, [10]) == [product]


@pytest.mark.parametrize("other", ["the same", "bfloat16"])
def test_layers_that_cannot_be_one_product_are_alone(make_model, other: str) -> None:
    """A model may use one layer for keys and values, or hold them in numbers of another type."""
    attention = copy.deepcopy(make_model().model.layers[0].self_attn)
    if other == "the same":
        attention.v_proj = attention.k_proj
    else:
        attention.v_proj.bfloat16()
    linears = list(dict.fromkeys(m for m in attention.modules() if isinstance(m, nn.Linear)))
    assert [len(group) for group in groups(attention, linears)] == [1] * len(linears)


def test_the_weights_of_a_group_stand_side_by_side_with_their_biases() -> None:
    both = [nn.Linear(4, 3, bias=False), nn.Linear(4, 2)]
    weight, bias = side_by_side(both)
    x = torch.randn(5, 4)
    expected = torch.cat([layer(x) for layer in both], -1)
    torch.testing.assert_close(nn.functional.linear(x, weight, bias), expected)


def test_every_layer_is_in_one_group(make_model) -> None:
    model = make_model()
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    found = groups(model, linears)
    assert sorted(map(id, itertools.chain(*found))) == sorted(map(id, linears))
    assert sorted(map(len, found)) == sorted([3, 2, 1, 1] * 3 + [1])
    without = groups(model, [m for m in linears if m is not model.model.layers[0].self_attn.k_proj])
    assert sorted(map(len, without)) == sorted([1, 1, 2, 1, 1] + [3, 2, 1, 1] * 2 + [1])
