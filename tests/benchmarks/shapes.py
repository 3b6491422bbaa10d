"""Random models of real shapes with a random SAE, for timing where no weights can be had."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SHAPES = {
    # Llama 3.1 8B's geometry: 16 GB in bfloat16, for a GPU
    "8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    },
    # SmolLM2-135M's geometry: 134.5 M parameters, 538 MB in float32
    "135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    # the first foghorn's geometry, but it hardly ever ends a reply early: steered and unsteered
    # do equal work
    "small": {
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}


def tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level with no merges: prompts are bytes; the other ids are words it only ever says."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ("Ġ" + "".join(word) for word in product("abcdefghijklmnopqrstuvwxyz", repeat=4))
    said = [next(words) for _ in range(vocab_size - len(letters) - len(SPECIAL))]
    vocab = {token: i for i, token in enumerate([*SPECIAL, *letters, *said])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=SPECIAL[0])
    fast.chat_template = TEMPLATE
    return fast


def built(
    shape: str, device: str, dtype: torch.dtype = torch.bfloat16
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A model, made where it is to run and never written to a disk, and its tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=8192, tie_word_embeddings=False)
    config.bos_token_id, config.eos_token_id = None, 0
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(usual)
    return model.eval().requires_grad_(False), tokenizer(config.vocab_size)


def make(
    shape: str, folder: Path, d_sae: int = 4096, *, dtype: torch.dtype = torch.bfloat16
) -> tuple[Path, Path]:
    """A model folder and a SAELens v6 folder at its middle layer, seeded; returns both paths.

    dtype: of the numbers in the model's file; bfloat16, as nearly all models are published.
    """
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=1024, tie_word_embeddings=True)
    config.bos_token_id, config.eos_token_id = None, 0
    model = folder / shape
    LlamaForCausalLM(config).to(dtype).save_pretrained(model)
    tokenizer(config.vocab_size).save_pretrained(model)
    return model, make_sae(shape, folder, d_sae)


def make_sae(shape: str, folder: Path, d_sae: int = 4096) -> Path:
    """A SAELens v6 folder at a shape's middle layer."""
    sae, d_in = folder / f"{shape}-sae", SHAPES[shape]["hidden_size"]
    layer = SHAPES[shape]["num_hidden_layers"] // 2
    decoder = torch.nn.functional.normalize(torch.randn(d_sae, d_in), dim=-1)
    tensors = {
        "W_enc": decoder.T.contiguous(),
        "b_enc": torch.zeros(d_sae),
        "W_dec": decoder,
        "b_dec": torch.zeros(d_in),
        "threshold": torch.full((d_sae,), 0.1),
    }
    cfg = {
        "architecture": "jumprelu",
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "metadata": {
            "sae_lens_version": "6.0.0",
            "model_name": shape,
            "hook_name": f"blocks.{layer}.hook_resid_post",
        },
    }
    sae.mkdir()
    save_file(tensors, sae / "sae_weights.safetensors")
    (sae / "cfg.json").write_text(json.dumps(cfg))
    return sae
