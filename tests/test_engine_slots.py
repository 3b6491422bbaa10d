"""Models over slots: other families, where the context must end, and models that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from runner_passes import prefill, runner
from tiny import SMALL
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Llama4TextConfig,
    Phi3Config,
    Qwen2MoeConfig,
)

from server.engine import attention
from server.engine.sites import longest_context
from server.engine.slotted import Slotted
from server.errors import SteerdeckError


def test_a_model_that_slots_do_not_reproduce_is_refused(make_model) -> None:
    model = make_model()
    model.model.layers[0].self_attn.layer_idx = 1
    model.model.layers[1].self_attn.layer_idx = 0
    with pytest.raises(SteerdeckError, match="no list of 3 decoder layers"):
        runner(model)
    model = make_model()
    attention = model.model.layers[1].self_attn
    plain = attention.forward

    def drifting(*args: Any, **kwargs: Any) -> Any:
        if model.config._attn_implementation == "steerdeck":
            kwargs["position_embeddings"] = tuple(2 * e for e in kwargs["position_embeddings"])
        return plain(*args, **kwargs)

    attention.forward = drifting
    with pytest.raises(SteerdeckError, match="differs from its own forward pass"):
        runner(model)


def test_the_context_ends_where_positions_would_stop_being_a_rows_own() -> None:
    """LongRoPE looks at the whole batch, and chunked attention forgets what lies a chunk back."""
    phi = Phi3Config(
        max_position_embeddings=256,
        original_max_position_embeddings=64,
        rope_scaling={"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
        hidden_size=32,
        num_attention_heads=4,
    )
    assert longest_context(phi) == 64
    llama4 = Llama4TextConfig(max_position_embeddings=512, attention_chunk_size=128)
    assert longest_context(llama4) == 128
    assert longest_context(Llama4TextConfig(max_position_embeddings=64)) == 64


def test_the_context_ends_at_a_window_that_attention_is_not_told_of(make_engine) -> None:
    """Slots ignore masks, and in Qwen2-MoE the window is nowhere else."""

    def context(windowed: bool) -> int:
        experts = {"num_experts": 4, "moe_intermediate_size": 16}
        config = Qwen2MoeConfig(**SMALL, **experts, use_sliding_window=windowed, sliding_window=16)
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        return int(make_engine(model=model, dictionaries=()).capabilities.max_context)

    assert (context(True), context(False)) == (16, 512)
    assert make_engine("qwen3", dictionaries=()).capabilities.max_context == 512, "told"


@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}),
        ("stablelm", {}),  # does not hand arguments on to attention
        ("cohere2", {"sliding_window": 4}),
        ("olmo2", {}),
    ],
)
def test_other_families_run_over_slots_too(family, extra) -> None:
    """Sinks, windows and odd wiring: the runner itself compares with the plain forward pass."""
    config = AutoConfig.for_model(
        family,
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        **extra,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 or "sinks" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    assert prefill(runner(model), 0).isfinite().all()


def test_a_proof_that_is_not_finite_is_none(make_model, monkeypatch) -> None:
    """Of either prompt: nothing compares with nan."""
    both = Slotted._both

    def broken(self: Slotted, one: list[int], two: list[int]) -> list[Tensor]:
        first, second = both(self, one, two)
        return [first, second * torch.nan]

    monkeypatch.setattr(Slotted, "_both", broken)
    with pytest.raises(SteerdeckError, match="differs from its own forward pass by nan"):
        runner(make_model())


def test_a_model_too_large_for_float16_is_told_what_to_run_in(make_model) -> None:
    """Gemma 3 is one."""
    model = make_model().half()
    model.model.layers[1].mlp.down_proj.weight.fill_(60_000.0)
    with pytest.raises(SteerdeckError, match=r"not finite in float16.*--dtype bfloat16"):
        runner(model)


def test_a_deep_model_that_rounds_is_not_taken_for_another_but_a_broken_one_is(monkeypatch) -> None:
    """In bfloat16 experts fall to either side, and of many logits some are always far off."""

    def model() -> Any:
        config = AutoConfig.for_model(
            "gpt_oss",
            vocab_size=9000,
            hidden_size=128,
            num_hidden_layers=16,
            intermediate_size=128,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            num_local_experts=16,
            num_experts_per_tok=4,
        )
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        for name, parameter in made.requires_grad_(False).named_parameters():
            if parameter.dim() > 1 or "sinks" in name:
                std = 1.0 if "sinks" in name or "embed" in name else 0.06
                torch.nn.init.normal_(parameter, std=std)
        return made

    assert prefill(runner(model()), 0).isfinite().all()
    attend = attention.attend_to
    monkeypatch.setattr(attention, "attend_to", lambda *given: attend(*given[:-1], None))
    with pytest.raises(SteerdeckError, match="differs from its own forward pass"):
        runner(model())
