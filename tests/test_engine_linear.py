"""Packed linear layers: the same products, and plain ones wherever packing does not apply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import SMALL
from torch import nn
from transformers import AutoModelForCausalLM, Llama4TextConfig, PhimoeConfig
from transformers.pytorch_utils import Conv1D

from server.engine import linear
from server.engine.linear import Rounding, pack
from server.engine.runner import Runner

ROWS = [0, 1, 2, 3, 8, 33]
HALVES = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))


def layers() -> nn.ModuleDict:
    torch.manual_seed(0)
    conv = Conv1D(600, 512)  # GPT-2's linear layer: weight [in, out]
    torch.nn.init.normal_(conv.bias)
    return nn.ModuleDict(
        {
            "plain": nn.Linear(512, 700),
            "unbiased": nn.Linear(640, 512, bias=False),
            "conv": conv,
            "small": nn.Linear(64, 64),
            "bfloat": nn.Linear(512, 700).bfloat16(),
        }
    ).requires_grad_(False)


@pytest.mark.parametrize("spare", [2**30, 0])
@pytest.mark.parametrize("rows", ROWS)
def test_packed_layers_give_the_same_products(spare: int, rows: int) -> None:
    plain, packed = layers(), layers()
    assert pack(packed, spare=spare) == 3 + HALVES
    for name, layer in plain.items():
        wide = layer.weight.shape[0 if name == "conv" else 1]
        x = torch.randn(1, rows, wide, dtype=layer.weight.dtype)
        near = 1e-2 if name == "bfloat" else 1e-4
        across = torch.randn(1, wide, rows, dtype=x.dtype).mT  # not contiguous
        for given in (x, across):
            torch.testing.assert_close(packed[name](given), layer(given), atol=near, rtol=near)


def test_only_the_packed_copy_is_kept_when_there_is_much_of_it() -> None:
    packed = layers()
    pack(packed, spare=0)
    assert packed["plain"].weight.numel() == packed["conv"].weight.numel() == 0
    assert packed["small"].weight.numel() == 64 * 64
    kept = layers()
    pack(kept)
    assert kept["plain"].weight.numel() == 512 * 700


def test_a_head_tied_to_the_embeddings_keeps_its_weight() -> None:
    model = nn.ModuleDict(
        {"embed": nn.Embedding(600, 512), "head": nn.Linear(512, 600, bias=False)}
    )
    model["head"].weight = model["embed"].weight
    model.requires_grad_(False)
    expected = model["head"](torch.ones(4, 512))
    assert pack(model, spare=0) == 1
    assert model["head"].weight is model["embed"].weight
    torch.testing.assert_close(model["head"](torch.ones(4, 512)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("weights", [None, "float16", "int8"])
@pytest.mark.parametrize(
    "config",
    [
        lambda: PhimoeConfig(**SMALL, num_local_experts=4, bos_token_id=None, eos_token_id=None),
        lambda: Llama4TextConfig(
            **SMALL, head_dim=8, num_local_experts=4, intermediate_size_mlp=64
        ),
    ],
    ids=["phimoe", "llama4"],
)
def test_a_linear_layer_that_also_chooses_experts_stays_as_it_is(
    config: Callable[[], Any], weights: Rounding | None, monkeypatch
) -> None:
    monkeypatch.setattr(linear, "WORTH", 0)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(), dtype=torch.float32).requires_grad_(False)
    Runner(model, {}, rows=2, capacity=16, max_edits=1, weights=weights)  # compares its logits
    kept = {name for name, p in model.named_parameters() if p.numel() and "router.weight" in name}
    assert len(kept) == model.config.num_hidden_layers
    assert any(p.numel() == 0 for p in model.parameters()) == (weights is not None)


def test_without_the_private_operators_every_layer_stays_plain(monkeypatch, caplog) -> None:
    def missing(*_: Any) -> Any:
        raise RuntimeError("no oneDNN here")

    monkeypatch.setattr(linear, "_Packed", missing)
    model = layers()
    assert pack(model) == 0
    (said,) = caplog.messages  # once, however many layers there are
    assert said.endswith("slower without oneDNN: no oneDNN here")
    assert model["plain"](torch.ones(3, 512)).shape == (3, 700)


def test_a_packed_layer_that_computes_something_else_stays_plain(monkeypatch) -> None:
    reorder = torch.ops.mkldnn._reorder_linear_weight
    monkeypatch.setattr(
        linear, "_reorder", lambda weight, rows: reorder(weight + 0.01, rows), raising=True
    )
    model = layers()
    assert pack(model) == 0
    expected = layers()["plain"](torch.ones(3, 512))
    assert torch.equal(model["plain"](torch.ones(3, 512)), expected)
