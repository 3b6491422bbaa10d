"""Linear layers in eight bits: near the plain ones, and the same alone as in any batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_engine_linear import ROWS, layers

from dictionaries.dictionary import Site
from server.engine import int8, linear
from server.engine.int8 import quantize
from server.engine.linear import halve, pack
from server.engine.sites import decoder_layers
from server.errors import SteerdeckError
from server.lens import logit_lens


@pytest.fixture
def small_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny models' layers as well."""
    monkeypatch.setattr(linear, "WORTH", 0)


VNNI = torch.cpu._is_vnni_supported()
WHOLE = pytest.param(
    127, marks=pytest.mark.skipif(not VNNI, reason="eight-bit numbers overflow without VNNI")
)


@pytest.mark.parametrize("levels", [WHOLE, 63])
@pytest.mark.parametrize("rows", ROWS)
def test_eight_bits_give_nearly_the_same_products(
    levels: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "_levels", lambda: levels)
    plain, eight = layers(), layers()
    assert quantize(eight) == 3
    for name, layer in plain.items():
        wide = layer.weight.shape[0 if name == "conv" else 1]
        token = torch.randn(1, rows, wide, dtype=layer.weight.dtype)
        across = torch.randn(1, wide, rows, dtype=token.dtype).mT  # not contiguous
        for x in (token, across):
            expected = layer(x)
            assert eight[name](x).shape == expected.shape
            assert (eight[name](x) - expected).norm() <= 2.5 / levels * expected.norm()


def test_a_token_is_the_same_to_the_bit_in_any_company() -> None:
    eight = layers()
    quantize(eight)
    x = torch.randn(9, 512) * torch.logspace(-6, 4, 9)[:, None]
    x[3] = 0
    x[7] = torch.nan
    together = eight["plain"](x)
    assert torch.equal(together[3], eight["plain"].bias)
    assert together[7].isnan().all()
    for i in (0, 1, 2, 3, 8):
        assert torch.equal(eight["plain"](x[i : i + 1])[0], together[i])
    rough = (together[0] - layers()["plain"](x[0])).norm()
    assert (
        rough <= 0.02 * (x[0] @ layers()["plain"].weight.T).norm()
    )  # however large its neighbours


def test_only_weights_that_are_read_elsewhere_are_kept(make_model, small_too) -> None:
    model = make_model()
    assert quantize(model) == 3 * 7 + 1
    assert {p.numel() for n, p in model.named_parameters() if "proj" in n} == {0}
    assert model.get_output_embeddings().weight.numel() > 0  # the logit lens reads it


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "prepare",
    [quantize, lambda model: pack(model, spare=0), lambda model: (halve(model), pack(model))],
    ids=["int8", "packed", "float16"],
)
def test_the_logit_lens_needs_no_weight_that_is_given_up(
    family: str, prepare: Callable[[Any], object], make_model, small_too
) -> None:
    model, packed = make_model(family), make_model(family)
    prepare(packed)
    for hook in ("resid_post", "hook_z"):
        directions = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
        site = Site(1, hook)
        expected = logit_lens(model, decoder_layers(model), site, directions)
        got = logit_lens(packed, decoder_layers(packed), site, directions)
        assert (got - expected).norm() <= 0.03 * expected.norm()


async def test_replies_in_eight_bits_are_the_same_alone_and_in_a_batch(
    make_engine, hear, ask, steer, small_too
) -> None:
    engine = make_engine(max_rows=4, weights="int8")
    assert engine.capabilities.dtype == "int8"
    requests = [
        ask("Somebody else's bridge."),
        ask("The bridge is red.", steering=steer((4, "clamp", 5.0), (9, "add", 2.0))),
        ask("A cat.", steering=steer((30, "scale", 3.0)), temperature=0.8, seed=5),
    ]
    together = await hear(engine, *requests)
    alone = [
        (await hear(engine, replace(request, id=f"alone-{request.id}")))[0] for request in requests
    ]
    assert [reply.text for reply in alone] == [reply.text for reply in together]


async def test_a_clamp_reaches_its_target_in_eight_bits(
    make_engine, hear, ask, steer, small_too
) -> None:
    engine = make_engine(weights="int8")
    (heard,) = await hear(engine, ask(steering=steer((4, "clamp", 5.0)), trace=True))
    readings = [token.readings for token in heard.tokens]
    assert readings
    for (reading,) in readings:
        assert reading.after == pytest.approx(5.0, abs=1e-4)


def test_a_model_that_eight_bits_spoil_is_refused(make_engine, small_too, monkeypatch) -> None:
    product = int8._Eight.__call__
    monkeypatch.setattr(int8._Eight, "__call__", lambda self, x: 0 * product(self, x))
    with pytest.raises(SteerdeckError, match="leave --dtype int8 out"):
        make_engine(weights="int8")


def test_a_model_that_does_not_run_in_eight_bits_is_refused(
    make_engine, small_too, monkeypatch
) -> None:
    def torn(*_: Any) -> Any:
        raise ValueError("no such weight")

    monkeypatch.setattr(int8._Eight, "__call__", torn)
    with pytest.raises(SteerdeckError, match=r"no such weight.*leave --dtype int8 out"):
        make_engine(weights="int8")


def test_a_torch_without_the_operators_is_told(monkeypatch) -> None:
    def missing(*_: Any) -> Any:
        raise RuntimeError("no FBGEMM here")

    monkeypatch.setattr(torch.backends.quantized, "engine", "onednn")
    monkeypatch.setattr(torch, "quantize_per_channel", missing)
    with pytest.raises(SteerdeckError, match=r"no FBGEMM here.*leave --dtype int8 out"):
        quantize(layers())
    assert torch.backends.quantized.engine == "onednn"
