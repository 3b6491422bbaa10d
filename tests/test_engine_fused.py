"""Parts of layers that are fused agree with transformers' own, or stay away."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fused_models import logits, model_of
from runner_passes import runner
from tiny import LAYERS, tiny_model

from server.engine import linear
from server.engine import runner as running
from server.engine.fused import fuse
from server.engine.gpu import plain, products, single
from server.engine.gpu.start import few_steps
from server.engine.linear import halve
from server.engine.native import layers
from server.speaker import sharing

own_code = pytest.mark.skipif(not layers.able(), reason="our own code cannot be compiled here")
FUSED = "server.engine.fused"
# Norms, attention and MLP.
PARTS = {
    "llama": 4 * LAYERS + 1,
    "mistral": 4 * LAYERS + 1,
    "qwen2": 4 * LAYERS + 1,
    "qwen3": 6 * LAYERS + 1,
    "wide heads": 4 * LAYERS + 1,
    "gemma": 4 * LAYERS + 1,
    "gemma2": 6 * LAYERS + 1,
    "gemma3": 8 * LAYERS + 1,
    "gpt2": 0,
}
# Of these a GPU has no other gates, and no attention that caps its scores.
LEFT = {"gemma": LAYERS, "gemma2": 2 * LAYERS, "gemma3": LAYERS}


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fused or written out by the runner itself."""
    monkeypatch.setattr(running, "write_out", lambda *_: 0)
    monkeypatch.setattr(layers, "able", lambda: False)


@pytest.mark.parametrize("family", PARTS)
def test_a_model_gives_the_same_with_its_parts_fused(family: str, device, by_torch) -> None:
    """On a GPU the runner does it by itself, with Triton where that is."""
    model, wanted = model_of(family), PARTS[family] - LEFT.get(family, 0)
    own = runner(copy.deepcopy(model), threads=1)
    made = runner(model.to(device), threads=1, graphs=True)
    if device == "cpu":
        assert fuse(model, lambda: few_steps(made._logits, 4), plain) == wanted
    else:
        assert sum("forward" in vars(one) for one in model.modules()) >= wanted
    for got, expected in zip(logits(made), logits(own), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


@own_code
@pytest.mark.parametrize("family", PARTS)
def test_on_a_cpu_the_runner_fuses_parts_by_itself(family: str, monkeypatch) -> None:
    model = model_of(family)
    with monkeypatch.context() as patch:
        patch.setattr(layers, "able", lambda: False)
        own = runner(copy.deepcopy(model), threads=1)
    monkeypatch.setattr(linear, "WORTH", 0)
    halve(model)
    halve(own.model)
    made = runner(model, threads=1)
    fused = [m for m in model.modules() if type(getattr(m, "forward", None)).__module__ == FUSED]
    assert len(fused) == PARTS[family]
    for got, expected in zip(logits(made), logits(own), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_a_part_that_differs_by_more_than_rounding_stays(by_torch, caplog) -> None:
    caplog.set_level("INFO")
    model = tiny_model()
    made = runner(model, threads=1)

    def off(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return plain.rms_norm(x, weight, eps) * 1.001

    def fails(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    ops: Any = SimpleNamespace(**{**vars(plain), "rms_norm": off, "gated": fails})
    assert fuse(model, lambda: few_steps(made._logits, 4), ops) == LAYERS
    assert "forward" not in vars(model.model.norm)
    assert "forward" not in vars(model.model.layers[0].mlp)
    assert f"stay as they are: {2 * LAYERS + 1} LlamaRMSNorm, {LAYERS} LlamaMLP" in caplog.text


def test_joined_weights_are_not_kept_twice() -> None:
    layers = [torch.nn.Linear(8, width, bias=width != 4) for width in (6, 4, 2)]
    x = torch.randn(3, 8)
    expected = torch.cat([layer(x) for layer in layers], -1)
    product = products.joined(layers)
    assert torch.allclose(product(x), expected, atol=1e-6)
    assert torch.allclose(torch.cat([layer(x) for layer in layers], -1), expected, atol=1e-6)
    memory = product.weight.untyped_storage().data_ptr()
    assert all(layer.weight.untyped_storage().data_ptr() == memory for layer in layers)


def test_a_model_that_shares_the_weights_keeps_no_second_copy_of_them() -> None:
    """As the plain model beside an engine does, when replies are made for measuring."""
    plain = torch.nn.ModuleList([torch.nn.Linear(8, 6), torch.nn.Linear(8, 4)])
    x = torch.randn(3, 8)
    expected = [layer(x) for layer in plain]
    product = products.joined(list(sharing(plain)))
    memory = {
        product.weight.untyped_storage().data_ptr(),
        product.bias.untyped_storage().data_ptr(),
    }
    assert {p.untyped_storage().data_ptr() for p in plain.parameters()} == memory
    assert all(
        torch.allclose(layer(x), before) for layer, before in zip(plain, expected, strict=True)
    )


def test_layers_that_do_more_than_multiply_are_not_joined() -> None:
    class Louder(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    with pytest.raises(TypeError):
        products.joined([torch.nn.Linear(8, 4), Louder(8, 4)])


def test_a_single_row_goes_to_the_quickest_kernel_that_is_right(monkeypatch) -> None:
    """Torch's own where none is: several rows always do."""
    calls = []

    def kernel(name: str, factor: float) -> Any:
        def product(x: Any, weight: Any, bias: Any) -> Any:
            calls.append(name)
            return torch.nn.functional.linear(x, weight, bias) * factor

        return product

    right, wrong, slow = kernel("right", 1.0), kernel("wrong", 1.1), kernel("slow", 1.0)
    took = {right: 0.5, wrong: 0.1, slow: 2.0}
    monkeypatch.setattr(single, "_WORTH", 64)
    monkeypatch.setattr(single, "_seconds", lambda one, *_: took.get(one, 1.0))
    layer = torch.nn.Linear(8, 8)
    model = torch.nn.Sequential(layer, torch.nn.Linear(8, 4))
    assert single.choose(model, [], [wrong, slow, right]) == 1
    one, two = torch.randn(1, 1, 8), torch.randn(1, 2, 8)
    calls.clear()
    assert torch.equal(layer(one), torch.nn.functional.linear(one, layer.weight, layer.bias))
    assert calls == ["right"]
    layer(two)
    model[1](one)
    assert calls == ["right"]
