"""Tiny real models, a tokenizer and dictionaries, made here: nothing is downloaded.

Importing this takes seconds, for torch and transformers: `conftest.py` and `fixtures_*.py`, which
every process of a test run reads, do so in their fixtures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from dictionaries.dictionary import Dictionary
from dictionaries.formats import open_dictionary

D_MODEL, LAYERS, D_SAE = 32, 3, 64
SPECIALS = ["<|begin|>", "<|role|>", "<|end|>"]
CHAT_TEMPLATE = (
    "<|begin|>{% for message in messages %}<|role|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|role|>assistant\n{% endif %}"
)
_WIDE = {"vocab_size": 256 + len(SPECIALS), "hidden_size": D_MODEL, "num_hidden_layers": LAYERS}
SMALL = {
    **_WIDE,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SMALL),
    "gpt2": lambda: GPT2Config(
        vocab_size=256 + len(SPECIALS), n_embd=D_MODEL, n_layer=LAYERS, n_head=4, n_positions=512
    ),
    "gemma2": lambda: Gemma2Config(
        **SMALL,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=8,
        attn_logit_softcapping=0.5,
        final_logit_softcapping=5.0,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **SMALL, head_dim=8, query_pre_attn_scalar=8, sliding_window=8, sliding_window_pattern=2
    ),
    "qwen3": lambda: Qwen3Config(
        **SMALL, head_dim=16, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "gpt_neox": lambda: GPTNeoXConfig(
        **_WIDE, intermediate_size=64, num_attention_heads=4, max_position_embeddings=512
    ),
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level without merges: a token is one byte. Three special tokens, a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    begin, role, end = SPECIALS
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin,
        eos_token=end,
        additional_special_tokens=[role],
        chat_template=CHAT_TEMPLATE,
    )


def tiny_model(family: str = "llama") -> Any:
    """A new model with the same random weights every time; its attention is far from uniform."""
    config = FAMILIES[family]()
    config.eos_token_id = config.bos_token_id = config.pad_token_id = None
    config.tie_word_embeddings = False  # else a random model repeats its last token
    config._attn_implementation = "eager"
    torch.manual_seed(7)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(25)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.25, generator=generator)
    return model.requires_grad_(False)


def write_sae(
    folder: Path, layer: int, hook: str, architecture: str, d_in: int, normalize: str, seed: int
) -> None:
    """W_enc and W_dec are random; about half of the features fire on a token."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    point = {"attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out", "hook_z": "attn.hook_z"}
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": D_SAE,
        "dtype": "float32",
        "apply_b_dec_to_input": True,
        "normalize_activations": normalize,
        "metadata": {
            "sae_lens_version": "6.0.0",
            "model_name": "tiny",
            "hook_name": f"blocks.{layer}.{point.get(hook, 'hook_' + hook)}",
        },
    }
    weights = {
        "W_enc": normal(d_in, D_SAE) / d_in**0.5,
        "W_dec": torch.nn.functional.normalize(normal(D_SAE, d_in), dim=-1),
        "b_enc": 0.1 * normal(D_SAE),
        "b_dec": 0.1 * normal(d_in),
    }
    if architecture == "jumprelu":
        weights["threshold"] = normal(D_SAE).abs() * 0.1
    if architecture in ("topk", "abstopk"):
        config["k"] = 8
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(weights, folder / "sae_weights.safetensors")


# --- A model in which steering provably works ---


@dataclass(frozen=True)
class Planted:
    """A Llama that speaks in random pairs of words, and a dictionary with a feature to steer it by.

    Every word has four words that are likely after it, and what attention adds makes it differ
    between prompts. `words` are unlikely after anything; the residual's last number is written by
    nothing but `feature`, whose decoder row it is, and makes them likely.
    """

    model: Any
    tokenizer: PreTrainedTokenizerFast
    dictionary: Dictionary
    folder: Path  # model/ and sae/, for commands
    feature: int = 5
    words: tuple[str, ...] = ("bridge", "tower", "cable")


def plant(folder: Path) -> Planted:
    from dictionaries.making.neutral import CALIBRATION, EVALUATION

    words = sorted({word for text in (*CALIBRATION, *EVALUATION) for word in text.split()})
    tokenizer = _word_tokenizer([*Planted.words, *words])
    model = _pairs_model(len(tokenizer), list(range(len(SPECIALS) + 1, len(tokenizer))))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    d_model = model.config.hidden_size
    write_sae(folder / "sae", 1, "resid_post", "jumprelu", d_model, "none", seed=3)
    weights = folder / "sae" / "sae_weights.safetensors"
    tensors = load_file(weights)
    tensors["W_dec"][:, -1] = 0.0
    tensors["W_dec"][Planted.feature] = torch.eye(d_model)[-1]
    tensors["threshold"][Planted.feature] = 1e6  # it never fires by itself
    save_file(tensors, weights)
    return Planted(model, tokenizer, open_dictionary(folder / "sae", id="planted"), folder)


def _word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """A token is a word with the space before it."""
    known = [*SPECIALS, "<|unk|>", *(f"▁{word}" for word in words)]
    backend = Tokenizer(
        models.WordLevel(vocab={word: i for i, word in enumerate(known)}, unk_token="<|unk|>")
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    begin, role, end = SPECIALS
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin,
        eos_token=end,
        unk_token="<|unk|>",
        additional_special_tokens=[role],
        chat_template=f"{begin}{{% for m in messages %}}{role}{{{{ m.content }}}}{end}"
        f"{{% endfor %}}{{% if add_generation_prompt %}}{role}{{% endif %}}",
    )


def _pairs_model(vocab: int, words: list[int]) -> Any:
    """words: ids that are said; the first three are the planted ones."""
    d, likely, unlikely = 128, 6.0, 2.0  # an embedding is a unit vector as long as a normed one
    assert vocab < d
    config = LlamaConfig(**{**SMALL, "vocab_size": vocab, "hidden_size": d})
    config.eos_token_id = config.bos_token_id = config.pad_token_id = None
    config.tie_word_embeddings = False
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.06, generator=draw)
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    parameter[-1] = 0.0
        model.model.embed_tokens.weight.copy_(d**0.5 * torch.eye(vocab, d))
        head = torch.zeros(vocab, d)
        spoken = torch.tensor(words[3:])
        for word in range(vocab):
            head[spoken[torch.randperm(len(spoken), generator=draw)[:4]], word] = likely / d**0.5
        head[words[:3], :vocab] = unlikely / d**0.5
        head[words[:3], -1] = 0.5
        head[: words[0], :vocab] = -likely / d**0.5
        model.lm_head.weight.copy_(head)
    return model.requires_grad_(False)
