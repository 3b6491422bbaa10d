"""Linear layers whose weights float16 holds: float32's products, and no other in any company."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_engine_linear import ROWS, layers
from torch import nn

from server.engine import half, linear
from server.engine.half import Half, fits
from server.engine.linear import halve, pack
from server.engine.native import layers as own
from server.engine.native.build import Unavailable
from server.errors import SteerdeckError

UNIT = 2.0**-24  # float32's rounding, relative


def published(model: Any, dtype: torch.dtype = torch.bfloat16) -> Any:
    """As it is loaded from a file in that dtype."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.to(dtype))
    return model


@pytest.fixture
def without_own_code(monkeypatch) -> None:
    def unavailable(*_: Any) -> Any:
        raise Unavailable("no compiler here")

    monkeypatch.setattr(linear, "Native", unavailable)


@pytest.fixture(params=["own code", "FBGEMM"])
def library(request) -> str:
    """Which multiplies: our own code, or FBGEMM where it cannot be had."""
    if request.param == "own code" and not own.able():
        pytest.skip("our own code cannot be compiled here")
    if request.param == "FBGEMM":
        request.getfixturevalue("without_own_code")
    return request.param


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", ROWS)
def test_products_are_float32s(library: str, dtype: torch.dtype, rows: int) -> None:
    plain, packed = published(layers(), dtype), published(layers(), dtype)
    pack(packed)
    for name in ("plain", "unbiased", "conv"):
        assert packed[name].weight.numel() == 0  # it is not the plain one that multiplies
        exact = plain[name].double()
        wide = exact.weight.shape[0 if name == "conv" else 1]
        token = torch.randn(1, rows, wide)
        across = torch.randn(1, wide, rows).mT  # not contiguous
        for x in (token, across):
            expected, got = exact(x.double()), packed[name](x)
            assert got.dtype == torch.float32
            assert got.shape == expected.shape
            bound = UNIT * wide * x.norm(dim=-1, keepdim=True) * exact.weight.norm()
            assert ((got - expected).abs() <= bound).all()


def test_a_token_is_the_same_in_any_company(library: str) -> None:
    """To the bit; but FBGEMM's code for AVX2 sums one or two left over rows another way."""
    packed = published(layers())
    pack(packed)
    x = torch.randn(70, 512) * torch.logspace(-6, 4, 70)[:, None]
    x[3] = torch.nan
    together = packed["plain"](x)
    assert together[3].isnan().all()
    exact = library == "own code" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    near = 0.0 if exact else 1e-6
    for i in (0, 1, 2, 33, 69):
        for first in range(max(0, i - 20), i + 1, 5):
            alone = packed["plain"](x[first : i + 1])[-1]
            bound = near * (1 + x[i].norm().item())
            torch.testing.assert_close(alone, together[i], rtol=0, atol=bound)


def test_what_is_published_in_half_precision_fits_and_nothing_else() -> None:
    weight = torch.randn(3000, 576) * 0.02
    assert fits(weight.bfloat16().float())
    assert fits(weight.half().float())
    assert fits(torch.zeros(2, 4))
    assert not fits(weight)
    assert not fits(weight.bfloat16().float() * 1e-6)  # too small for float16
    assert not fits(weight.bfloat16().float() * 1e7)  # too large
    one = weight.bfloat16().float()
    one[2999] = weight[2999]  # a single row is enough
    assert not fits(one)


def test_only_weights_that_are_read_elsewhere_are_kept() -> None:
    model = nn.ModuleDict(
        {"embed": nn.Embedding(600, 512), "head": nn.Linear(512, 600, bias=False)}
    )
    model["head"].weight = model["embed"].weight
    published(model.requires_grad_(False))
    expected = model["head"](torch.ones(1, 512))
    assert pack(model) == 1
    assert model["head"].weight is model["embed"].weight
    torch.testing.assert_close(model["head"](torch.ones(1, 512)), expected)


@pytest.mark.parametrize("fault", ["missing", "wrong"])
def test_without_either_weights_are_packed_the_other_way(
    fault, without_own_code, monkeypatch, caplog
) -> None:
    def missing(*_: Any) -> Any:
        raise RuntimeError("no FBGEMM here")

    if fault == "missing":
        monkeypatch.setattr(half, "packing", missing)
    else:
        product = Half.__call__
        monkeypatch.setattr(Half, "__call__", lambda self, x: 1.01 * product(self, x))
    packed = published(layers())
    assert pack(packed) >= 3
    assert "without own code: no compiler here" in caplog.text
    assert ("no FBGEMM here" if fault == "missing" else "another product") in caplog.text
    x = torch.randn(4, 512)
    torch.testing.assert_close(
        packed["plain"](x), published(layers())["plain"](x), atol=1e-4, rtol=1e-4
    )


async def test_replies_are_those_of_plain_layers(
    make_engine, make_model, hear, ask, steer, monkeypatch
) -> None:
    requests = [
        ask("The bridge is red.", steering=steer((4, "clamp", 5.0), (9, "add", 2.0))),
        ask("A cat.", temperature=0.8, seed=5),
    ]
    plain = await hear(make_engine(max_rows=4, model=published(make_model())), *requests)
    monkeypatch.setattr(linear, "WORTH", 0)
    model = published(make_model())
    packed = await hear(make_engine(max_rows=4, model=model), *requests)
    assert {p.numel() for n, p in model.named_parameters() if "proj" in n} == {0}
    assert [reply.text for reply in packed] == [reply.text for reply in plain]


async def test_weights_are_rounded_where_float16_is_asked_for(
    make_engine, make_model, hear, ask, steer, monkeypatch
) -> None:
    monkeypatch.setattr(linear, "WORTH", 0)
    rounded = make_model()
    halve(rounded)
    assert fits(rounded.get_output_embeddings().weight)
    requests = [
        ask("Somebody else's bridge."),
        ask("The bridge is red.", steering=steer((4, "clamp", 5.0))),
    ]
    expected = await hear(make_engine(max_rows=4, model=rounded), *requests)
    model = make_model()
    engine = make_engine(max_rows=4, model=model, weights="float16")
    assert {p.numel() for n, p in model.named_parameters() if "proj" in n} == {0}
    assert engine.capabilities.dtype == "float16"
    together = await hear(engine, *requests)
    alone = [(await hear(engine, replace(r, id=f"alone-{r.id}")))[0] for r in requests]
    assert [r.text for r in together] == [r.text for r in alone] == [r.text for r in expected]


def test_a_model_whose_weights_float16_cannot_hold_is_refused(
    make_engine, make_model, monkeypatch
) -> None:
    monkeypatch.setattr(linear, "WORTH", 0)
    model = make_model()
    model.model.layers[1].mlp.down_proj.weight.mul_(1e6)
    with pytest.raises(SteerdeckError, match="leave --dtype float16 out"):
        make_engine(model=model, weights="float16")
