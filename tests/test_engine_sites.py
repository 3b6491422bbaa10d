"""Every site of every family: what the engine steers there is what a hand-written hook steers.

The table of modules below is written by hand from the models' own code, and knows nothing of
server.engine.sites.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from published import place
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from dictionaries.dictionary import Dictionary
from dictionaries.edits import Op
from dictionaries.formats import open_dictionary
from dictionaries.pack import pack
from server.engine.batch import Batch, Span
from server.engine.conditions import Condition, Crossing, Timing
from server.engine.runner import Runner
from server.engine.sites import decoder_layers
from server.engine.types import FeatureEdit
from server.errors import Unsteerable
from server.model_subject import ModelSubject

PROMPT = tuple(range(3, 23))
HOOKS = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "hook_z"]
EDITS = ((3, "clamp", 4.0), (9, "ablate", 0.0), (17, "scale", 3.0), (20, "add", 2.0))
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
CASES = [(f, h) for f, w in MODELS.items() for h in HOOKS if w.mid is not None or h != "resid_mid"]


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


@pytest.fixture(scope="module")
def built(make_dictionary: Callable[..., Dictionary]) -> Callable[[str], Any]:
    """(runner with a dictionary at each site, the plain model, the dictionaries) of a family."""

    @cache
    def build(family: str) -> tuple[Runner, Any, dict[str, Dictionary]]:
        wiring = MODELS[family]
        made = {
            hook: make_dictionary(hook, hook=hook, d_in=wiring.heads if hook == "hook_z" else 32)
            for hook in HOOKS
            if wiring.mid is not None or hook != "resid_mid"
        }
        options = {"rows": 2, "capacity": 64, "max_edits": 8, "threads": 1}
        return Runner(model_of(family), made, **options), model_of(family), made

    return build


def by_hand(dictionary: Dictionary, x: Tensor) -> Tensor:
    """What the edits add to x, from the whole SAE."""
    f = dictionary.encode(x)
    after = f.clone()
    after[..., 3], after[..., 9] = 4.0, 0.0
    after[..., 17] *= 3.0
    after[..., 20] += 2.0
    return dictionary.decode(after, x) - dictionary.decode(f, x)


def hand_hooked(family: str, model: Any, hook: str, dictionary: Dictionary) -> Tensor:
    """Logits after the prompt of the plain model, hooked at layer 1 by the table's modules."""
    wiring = MODELS[family]
    layer: nn.Module = model.get_submodule(wiring.layers)[1]
    added: list[Tensor] = []

    def on_input(_module: Any, args: Any, kwargs: Any) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        added.append(by_hand(dictionary, x))
        if args:
            return (x + added[-1], *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": x + added[-1]}

    def on_output(_module: Any, _args: Any, out: Any) -> Any:
        x = out[0] if isinstance(out, tuple) else out
        moved = x + by_hand(dictionary, x)
        return (moved, *out[1:]) if isinstance(out, tuple) else moved

    def carry(_module: Any, _args: Any, out: Any) -> Any:
        return (out[0] + added[-1], *out[1:]) if isinstance(out, tuple) else out + added[-1]

    if hook == "resid_mid":  # the MLP sees it edited, and the residual goes on from it
        middle = layer.get_submodule(wiring.mid)
        handles = [
            middle.register_forward_pre_hook(on_input, with_kwargs=True),
            layer.register_forward_hook(carry),
        ]
    elif hook in ("resid_pre", "hook_z"):
        at = layer if hook == "resid_pre" else layer.get_submodule(wiring.out)
        handles = [at.register_forward_pre_hook(on_input, with_kwargs=True)]
    else:
        where = {"resid_post": "", "attn_out": wiring.attention, "mlp_out": wiring.mlp}[hook]
        handles = [layer.get_submodule(where).register_forward_hook(on_output)]
    logits: Tensor = model(torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits


@pytest.mark.parametrize(("family", "hook"), CASES)
def test_a_site_is_steered_as_by_a_hook_written_by_hand(family, hook, built, steer) -> None:
    made, model, dictionaries = built(family)
    edits = [(*edit, "all", hook) for edit in EDITS]
    made.steerer.write(0, made.steerer.prepare(steer(*edits)))
    for start in range(0, len(PROMPT), 7):
        part = PROMPT[start : start + 7]
        last = start + len(part) == len(PROMPT)
        span = Span(0, start, part, (True,) * len(part), last)
        logits = made.forward(Batch(0, [], [], [], (span,)))
    made.steerer.write(0, None)
    expected = hand_hooked(family, model, hook, dictionaries[hook])
    plain = model(torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
    torch.testing.assert_close(logits[0], expected, atol=5e-4, rtol=1e-4)
    assert (expected - plain).abs().max() > 0.05, "the edits are seen in the logits"


def test_a_tensor_with_two_names_is_read_before_any_edit_of_it(make_dictionary, steer) -> None:
    """What leaves layer 0 enters layer 1: one SAE under either name, beside another's clamp."""
    loud = make_dictionary("loud", layer=0, seed=5)
    edits = steer(
        (3, "clamp", 40.0, "all", "loud"), *((f, "clamp", 2.0, "all", "sae") for f in range(7))
    )
    reached = Condition("sae", 7, Crossing.ABOVE, 0.5)
    waiting = FeatureEdit("loud", 4, Op.ADD, 9.0, Op.ADD.edit(9.0), timing=Timing(when=reached))
    found = []
    for layer, hook in ((0, "resid_post"), (1, "resid_pre")):
        sae = make_dictionary("sae", layer=layer, hook=hook)
        options = {"rows": 1, "capacity": 32, "max_edits": 9, "threads": 1}
        made = Runner(model_of("llama"), {"loud": loud, "sae": sae}, **options)
        steering = replace(edits, edits=(*edits.edits, waiting))
        made.steerer.write(0, made.steerer.prepare(steering))
        span = Span(0, 0, PROMPT, (True,) * len(PROMPT), True)
        logits = made.forward(Batch(0, [], [], [], (span,), traced=True))
        found.append((logits, made.steerer.readings(0)))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert any(reading.before > 0 for reading in found[0][1])


@pytest.mark.parametrize("family", [name for name, wiring in MODELS.items() if wiring.mid is None])
def test_side_by_side_there_is_no_resid_mid(family, make_dictionary, tokenizer) -> None:
    dictionary = make_dictionary(hook="resid_mid")
    with pytest.raises(Unsteerable, match="side by side: it has no resid_mid"):
        Runner(model_of(family), {"a": dictionary}, rows=1, capacity=16, max_edits=1, threads=1)
    with pytest.raises(Unsteerable, match="side by side: it has no resid_mid"):
        ModelSubject(model_of(family), tokenizer, dictionary.info.site, dictionary)


@pytest.mark.parametrize("hook", ["attn_out", "mlp_out", "resid_mid"])
def test_a_block_whose_output_is_scaled_before_it_is_added_is_refused(
    hook, make_dictionary, monkeypatch
) -> None:
    monkeypatch.setitem(MODELS, "granite", Wiring({**SMALL, "residual_multiplier": 0.5}))
    with pytest.raises(Unsteerable, match=rf"{hook} cannot be steered there. Use a dict"):
        Runner(
            model_of("granite"),
            {"a": make_dictionary(hook=hook)},
            rows=1,
            capacity=16,
            max_edits=1,
            threads=1,
        )


def test_half_precision_passes_the_proof_of_its_sums(make_dictionary) -> None:
    made = {hook: make_dictionary(hook, hook=hook) for hook in ("attn_out", "mlp_out")}
    model = model_of("gemma2").bfloat16()
    assert Runner(model, made, rows=1, capacity=16, max_edits=1, threads=1).steerer


def test_a_dictionary_of_a_modules_output_is_not_put_after_the_norm(
    make_dictionary, tmp_path
) -> None:
    """Nor is its packed copy."""
    dictionary = make_dictionary(hook="mlp_out")
    dictionary.info = replace(dictionary.info, of_module=True)
    pack(dictionary, tmp_path)
    options = {"rows": 1, "capacity": 16, "max_edits": 1, "threads": 1}
    for one in (dictionary, open_dictionary(tmp_path)):
        with pytest.raises(Unsteerable, match="normalises that before it is added"):
            Runner(model_of("olmo2"), {"a": one}, **options)
        assert Runner(model_of("llama"), {"a": one}, **options).steerer


@pytest.mark.parametrize(
    ("name", "of_module"),
    [("sparsify_sae_v1", True), ("dl_autoencoder", True), ("saelens_v6_standard", False)],
)
def test_a_published_dictionary_says_whether_it_is_of_a_modules_output(name, of_module) -> None:
    assert open_dictionary(place(name)).info.of_module == of_module


def test_the_language_model_is_found_inside_a_multimodal_one() -> None:
    model = model_of("gemma3")
    found = decoder_layers(model)
    assert found == list(model.get_submodule("model.language_model.layers"))
    assert len(found) == len(model.get_submodule("model.vision_tower").encoder.layers), "a decoy"
