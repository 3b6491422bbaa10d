"""Parts of layers that are written out give the very bits of transformers' own, or stay away."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from tiny import LAYERS, SMALL, tiny_model
from torch import Tensor
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, MistralConfig, Qwen2Config
from transformers.models.llama.modeling_llama import LlamaMLP

from server.engine import runner as running
from server.engine import written
from server.engine.batch import Batch, Span
from server.engine.runner import Runner

OTHERS = {
    "mistral": MistralConfig(**SMALL, head_dim=8, sliding_window=8),
    "qwen2": Qwen2Config(**SMALL),
    "gemma": GemmaConfig(**SMALL, head_dim=8),
    "all heads with keys": LlamaConfig(**{**SMALL, "num_key_value_heads": 4}, head_dim=64),
}
# Attention, MLP and norms of every layer (Qwen 3's attention has two, Gemma 3's too), and the last.
PARTS = {
    "llama": 4 * LAYERS + 1,
    "mistral": 4 * LAYERS + 1,
    "qwen2": 4 * LAYERS + 1,
    "qwen3": 6 * LAYERS + 1,
    "gemma": 4 * LAYERS + 1,
    "gemma2": 6 * LAYERS + 1,
    "gemma3": 8 * LAYERS + 1,
    "all heads with keys": 4 * LAYERS + 1,
    "gpt2": 0,
    "gpt_neox": 0,
}
IDS = [(7 * i) % 200 for i in range(30)]


def model_of(family: str) -> Any:
    if family not in OTHERS:
        return tiny_model(family)
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(OTHERS[family], dtype=torch.float32).eval()


def run(
    model: Any, monkeypatch: Any, *, plain: bool = False, weights: Any = "float16", worth: int = 0
) -> list[Tensor]:
    """Logits of a prompt in chunks, beside another, and of both decoding."""
    with monkeypatch.context() as patch:
        patch.setattr("server.engine.linear.WORTH", worth)
        patch.setattr(running, "fuse", lambda *_: 0)
        if plain:
            patch.setattr(running, "write_out", lambda *_: 0)
        options = {"rows": 3, "capacity": 64, "max_edits": 2, "threads": 1}
        made = Runner(model, {}, weights=weights, **options)

    def span(row: int, start: int, stop: int, end: bool) -> Span:
        ids = tuple(IDS[start:stop])
        return Span(row, start, ids, (True,) * len(ids), end)

    batches = [
        Batch(0, [], [], [], (span(0, 0, 13, True),)),
        Batch(0, [], [], [], (span(0, 13, 24, True), span(1, 0, 9, True))),
        Batch(0, [5], [24], [True], (span(1, 9, 10, True),)),
        Batch(0, [8, 9], [25, 10], [True, True], ()),
    ]
    return [made._logits(batch).clone() for batch in batches]


def parts(model: Any) -> Counter[str]:
    """Of which classes modules have another forward than their class, but for linear layers."""
    own = [m for m in model.modules() if "forward" in vars(m)]
    names = Counter(type(m).__name__ for m in own)
    return Counter({name: n for name, n in names.items() if name not in ("Linear", "Conv1D")})


@pytest.mark.parametrize("family", PARTS)
def test_a_model_gives_the_same_bits_with_its_parts_written_out(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over prompts longer than the window and tokens beside them."""
    model = model_of(family)
    expected = run(copy.deepcopy(model), monkeypatch, plain=True)
    got = run(model, monkeypatch)
    assert parts(model).total() == PARTS[family]
    assert all(map(torch.equal, expected, got))


@pytest.mark.parametrize(("weights", "parts_written"), [("int8", 13), ("float16", 13), (None, 7)])
def test_so_it_does_where_products_are_joined(
    weights: Any, parts_written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are not (weights kept twice), attention and MLP stay: nothing would be saved."""
    config = Qwen2Config(**{**SMALL, "intermediate_size": 72})  # no whole number of registers
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    expected = run(copy.deepcopy(model), monkeypatch, plain=True, weights=weights)
    got = run(model, monkeypatch, weights=weights)
    assert parts(model).total() == parts_written
    assert all(map(torch.equal, expected, got))


def test_queries_keys_and_values_are_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    run(model, monkeypatch)

    def alone(_: Tensor) -> Tensor:
        raise AssertionError("asked by itself")

    layer = model.model.layers[0]
    for linear in (layer.self_attn.q_proj, layer.self_attn.v_proj, layer.mlp.up_proj):
        linear.forward = alone
    x = torch.randn(1, 1, 32)
    layer.mlp(x)
    layer.self_attn.forward.heads(x, torch.ones(1, 1, 8), torch.zeros(1, 1, 8))


def test_norms_that_round_on_the_way_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama").bfloat16()
    expected = run(copy.deepcopy(model), monkeypatch, plain=True, weights=None)
    assert all(map(torch.equal, expected, run(model, monkeypatch, weights=None)))
    assert "LlamaRMSNorm" not in parts(model)
    with pytest.raises(TypeError):  # not by chance: its bits may agree on few tokens
        written._Norm(model.model.norm)


def test_a_part_that_differs_by_a_bit_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    right = written._Norm

    def off(module: Any) -> Any:
        norm = right(module)
        return lambda x: norm(x).nextafter(torch.tensor(9.0)) if x.shape[1] == 1 else norm(x)

    model = tiny_model("llama")
    expected = run(copy.deepcopy(model), monkeypatch, plain=True)
    monkeypatch.setattr(written, "_Norm", off)
    assert all(map(torch.equal, expected, run(model, monkeypatch)))
    assert parts(model) == {"LlamaAttention": LAYERS, "LlamaMLP": LAYERS}


def test_a_class_that_is_not_transformers_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name may be the same: what it makes of six tokens is not all that it does."""
    alike = type("LlamaMLP", (LlamaMLP,), {})
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp.__class__ = alike
    run(model, monkeypatch)
    assert "LlamaMLP" not in parts(model)
    assert parts(model)["LlamaAttention"] == LAYERS


def test_a_part_that_cannot_be_written_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of a later transformers might not: the model is run all the same."""

    def no(*_: Any) -> None:
        raise AttributeError("head_dim")

    model = tiny_model("llama")
    expected = run(copy.deepcopy(model), monkeypatch, plain=True)
    monkeypatch.setattr(written._Attention, "__init__", no)
    assert all(map(torch.equal, expected, run(model, monkeypatch)))
    assert parts(model) == {"LlamaMLP": LAYERS, "LlamaRMSNorm": 2 * LAYERS + 1}
