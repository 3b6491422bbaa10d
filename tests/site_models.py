"""Tiny models of every family, with random gains and biases, and where their sites are.

The table of modules below is written by hand from the models' own code, and knows nothing of
server.engine.sites.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SITES = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "hook_z"]
WIDE = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3}
SMALL = {**WIDE, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
EIGHT = {**SMALL, "head_dim": 8, "pad_token_id": 0}
WINDOWED = {**EIGHT, "query_pre_attn_scalar": 8, "sliding_window": 8}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@dataclass(frozen=True)
class Wiring:
    """Module paths within a model and within a layer. mid: the module whose input is resid_mid."""

    config: dict[str, Any]
    layers: str = "model.layers"
    attention: str = "self_attn"
    mlp: str = "mlp"
    out: str = "self_attn.o_proj"
    mid: str | None = "post_attention_layernorm"
    heads: int = 32  # numbers of hook_z


NORMED = {"attention": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"}
MODELS = {
    "gpt2": Wiring(
        {"vocab_size": 99, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},
        layers="transformer.h",
        attention="attn",
        out="attn.c_proj",
        mid="ln_2",
    ),
    "gpt_neox": Wiring(
        {**WIDE, "intermediate_size": 48, "num_attention_heads": 4},
        layers="gpt_neox.layers",
        attention="attention",
        out="attention.dense",
        mid=None,
    ),
    "gpt_neox, sequential": Wiring(
        {
            **WIDE,
            "intermediate_size": 48,
            "num_attention_heads": 4,
            "use_parallel_residual": False,
        },
        layers="gpt_neox.layers",
        attention="attention",
        out="attention.dense",
    ),
    "llama": Wiring(SMALL),
    "mistral": Wiring({**SMALL, "sliding_window": 8}),
    "mixtral": Wiring({**SMALL, **EXPERTS}),
    "qwen2": Wiring(SMALL),
    "qwen3": Wiring({**SMALL, "head_dim": 16}, heads=64),
    "gemma": Wiring({**EIGHT, "head_dim": 16}, heads=64),
    "gemma2": Wiring(WINDOWED, **NORMED, mid="pre_feedforward_layernorm"),
    "gemma3_text": Wiring(WINDOWED, **NORMED, mid="pre_feedforward_layernorm"),
    "gemma3": Wiring(
        {"text_config": WINDOWED, "vision_config": VISION, "mm_tokens_per_image": 4},
        layers="model.language_model.layers",
        **NORMED,
        mid="pre_feedforward_layernorm",
    ),
    "phi": Wiring({**SMALL, "pad_token_id": 0}, out="self_attn.dense", mid=None),
    "phi3": Wiring({**SMALL, "pad_token_id": 0}),
    "olmo2": Wiring({**SMALL, "pad_token_id": 0}, **NORMED, mid="mlp"),
    "glm4": Wiring(EIGHT, attention="post_self_attn_layernorm", mlp="post_mlp_layernorm"),
    "gpt_oss": Wiring({**EIGHT, **EXPERTS}),
}


def model_of(family: str, **extra: Any) -> Any:
    """Every gain and bias is random too, so that before and after a norm are far apart."""
    config = AutoConfig.for_model(family.partition(",")[0], **MODELS[family].config, **extra)
    config._attn_implementation = "eager"
    torch.manual_seed(7)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(11)
    for parameter in model.requires_grad_(False).parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(0.25 * noise if parameter.dim() > 1 else parameter + 0.3 * noise)
    return model
