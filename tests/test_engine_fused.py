"""Parts of layers that are fused agree with transformers' own, or stay away."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runner_passes import prefill, runner
from tiny import LAYERS, SMALL, tiny_model
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

from server.engine import fused as fusing
from server.engine import linear
from server.engine import runner as running
from server.engine.batch import Batch, Span
from server.engine.fused import fuse
from server.engine.gpu import plain, products, single
from server.engine.gpu.start import few_steps
from server.engine.linear import halve
from server.engine.native import layers
from server.speaker import sharing

own_code = pytest.mark.skipif(not layers.able(), reason="our own code cannot be compiled here")
FUSED = "server.engine.fused"
WHOLE = "llama", "mistral", "qwen2", "wide heads"  # layers that are one call
OTHERS = {
    "mistral": MistralConfig(**SMALL, head_dim=8, sliding_window=8),
    "qwen2": Qwen2Config(**SMALL),
    "wide heads": LlamaConfig(**SMALL, head_dim=64),
}
# Norms, attention and MLP; Gemma's act otherwise, and Gemma 2's attention caps its scores.
PARTS = {
    "llama": 4 * LAYERS + 1,
    "mistral": 4 * LAYERS + 1,
    "qwen2": 4 * LAYERS + 1,
    "qwen3": 6 * LAYERS + 1,
    "wide heads": 4 * LAYERS + 1,
    "gemma2": 0,
    "gemma3": LAYERS,
    "gpt2": 0,
}


def model_of(family: str) -> Any:
    if family not in OTHERS:
        return tiny_model(family)
    torch.manual_seed(1)
    config = copy.deepcopy(OTHERS[family])  # which a runner writes to
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return made.requires_grad_(False)


def logits(made: Any) -> list[torch.Tensor]:
    """Of prompts, and of rows of different lengths that decode beyond a window."""
    found = [prefill(made, row, range(3, 9 + 6 * row), cut=7)[None] for row in range(3)]
    for at in range(12):
        positions = [6 + 6 * row + at for row in range(3)]
        batch = Batch(0, [at, at + 9, at + 70], positions, [True] * 3, ())
        found.append(made.forward(batch).clone())
    return [one.float().cpu() for one in found]


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fused or written out by the runner itself."""
    monkeypatch.setattr(running, "write_out", lambda *_: 0)
    monkeypatch.setattr(layers, "able", lambda: False)


@pytest.mark.parametrize("family", PARTS)
def test_a_model_gives_the_same_with_its_parts_fused(family: str, device, by_torch) -> None:
    """On a GPU the runner does it by itself, with Triton where that is."""
    model = model_of(family)
    own = runner(copy.deepcopy(model), threads=1)
    made = runner(model.to(device), threads=1, graphs=True)
    if device == "cpu":
        assert fuse(model, lambda: few_steps(made._logits, 4), plain) == PARTS[family]
    else:
        assert sum("forward" in vars(one) for one in model.modules()) >= PARTS[family]
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
    assert len(fused) == PARTS[family] + (LAYERS if family in WHOLE else 0)
    for got, expected in zip(logits(made), logits(own), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


@own_code
@pytest.mark.parametrize("family", WHOLE)
def test_a_whole_layer_gives_the_bits_of_its_parts(family: str, monkeypatch) -> None:
    """And is left for them while somebody looks inside."""
    monkeypatch.setattr(linear, "WORTH", 0)
    model = model_of(family)
    halve(model)
    with monkeypatch.context() as patch:
        patch.setattr(fusing, "_LAYERS", {"another"})
        parts = runner(copy.deepcopy(model), threads=1)
    made = runner(model, threads=1)
    layer, asked = model.model.layers[1], []
    run = layer.forward._whole
    layer.forward._whole = lambda *given: asked.append(given) or run(*given)
    expected = logits(parts)
    assert all(map(torch.equal, logits(made), expected))
    assert len(asked) == 12
    seen: list[Any] = []
    watch = layer.self_attn.o_proj.register_forward_pre_hook(lambda *given: seen.append(given))
    assert all(map(torch.equal, logits(made), expected))
    assert len(seen) > 12
    assert len(asked) == 12
    watch.remove()
    assert all(map(torch.equal, logits(made), expected))
    assert len(asked) == 24


@own_code
@pytest.mark.parametrize("family", [*WHOLE, "qwen3"])
def test_a_row_that_decodes_gets_the_same_bits_in_any_company(
    family: str, dictionary, steer, monkeypatch
) -> None:
    """Beside rows of other lengths and steering, beside a prompt that is admitted, on one thread
    or on two; steered itself or not.
    """
    monkeypatch.setattr(linear, "WORTH", 0)
    model = model_of(family)
    halve(model)
    made = runner(model, dictionary, threads=1)
    for row, edits in enumerate(([(3, "clamp", 6.0), (9, "ablate", 0.0)], [], [(17, "add", 3.0)])):
        prepared = made.steerer.prepare(steer(*edits)) if edits else None
        made.steerer.write(row, prepared, 6 + 6 * row)
        prefill(made, row, range(3, 9 + 6 * row), cut=7)
    tokens, positions = [4, 9, 70], [6, 12, 18]

    def logits_of(first: int, stop: int, *spans: Span) -> torch.Tensor:
        rows = slice(first, stop)
        batch = Batch(first, tokens[rows], positions[rows], [True] * (stop - first), spans)
        return made.forward(batch)[: stop - first].clone()

    together = logits_of(0, 3)
    assert torch.equal(
        logits_of(0, 3, Span(3, 0, tuple(range(20, 33)), (True,) * 13, True)), together
    )
    torch.set_num_threads(2)
    try:
        assert torch.equal(logits_of(0, 3), together)
    finally:
        torch.set_num_threads(1)
    for row, own in enumerate(together):
        assert torch.equal(logits_of(row, row + 1)[0], own)


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
