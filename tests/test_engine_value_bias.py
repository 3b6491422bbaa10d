"""Dictionaries of heads' outputs that were trained where the value bias had been moved away."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from published import opened
from tiny import D_MODEL, D_SAE, byte_tokenizer, tiny_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from dictionaries.dictionary import Dictionary
from dictionaries.formats import open_dictionary
from dictionaries.making.subject import Windows
from dictionaries.pack import pack
from server.engine.batch import Batch, Span
from server.engine.conditions import Condition, Crossing
from server.engine.runner import Runner
from server.engine.sites import attach, decoder_layers
from server.engine.types import Steering
from server.engine.value_bias import unseen
from server.errors import Unsteerable
from server.model_subject import ModelSubject

PROMPT = tuple(range(5, 25))


@pytest.fixture
def sae(tmp_path: Path) -> Dictionary:
    """In the layout of Kissane's and Krzyzanowski's."""
    generator = torch.Generator().manual_seed(1)
    encoder = torch.randn(D_MODEL, D_SAE, generator=generator) / D_MODEL**0.5
    decoder = torch.nn.functional.normalize(encoder.T, dim=-1).contiguous()
    biases = {"b_enc": torch.full((D_SAE,), -0.1), "b_dec": torch.zeros(D_MODEL)}
    torch.save({"W_enc": encoder, "W_dec": decoder, **biases}, tmp_path / "run.pt")
    named = {"act_name": "blocks.1.attn.hook_z", "layer": 1, "model_name": "gpt2-small"}
    sizes = {"act_size": D_MODEL, "dict_size": D_SAE}
    (tmp_path / "run_cfg.json").write_text(json.dumps(named | sizes))
    return open_dictionary(tmp_path / "run.pt", id="z")


def gpt2(*, folded: bool) -> Any:
    """With a value bias in layer 1, where it was trained or behind the output projection."""
    model = tiny_model("gpt2")
    attention = model.transformer.h[1].attn
    bias = 0.3 * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(5))
    if folded:
        attention.c_proj.bias += bias @ attention.c_proj.weight
    else:
        attention.c_attn.bias[2 * D_MODEL :] = bias
    return model


@pytest.mark.parametrize("keep_norm", [False, True])
def test_the_engine_reads_what_the_dictionary_was_trained_on(
    sae: Dictionary, steer: Callable[..., Steering], keep_norm: bool
) -> None:
    edits = steer(*((f, "scale", 1.0, "all", "z") for f in range(8)), (9, "clamp", 4.0, "all", "z"))
    always = Condition("z", 3, Crossing.ABOVE, 0.5)
    found = []
    for folded in (True, False):
        options = {"rows": 1, "capacity": 32, "max_edits": 9, "threads": 1}
        made = Runner(gpt2(folded=folded), {"z": sae}, **options)
        steering = replace(edits, aborts=(always,), keep_norm=keep_norm and not folded)
        made.steerer.write(0, made.steerer.prepare(steering))
        span = Span(0, 0, PROMPT, (True,) * len(PROMPT), True)
        logits = made.forward(Batch(0, [], [], [], (span,), traced=True))
        readings = [(reading.before, reading.after) for reading in made.steerer.readings(0)]
        found.append((logits, torch.tensor(readings), made.steerer.seen()[0].since))
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-5)
    assert found[0][1].max() > 0.1
    assert found[0][2] == found[1][2]
    if not keep_norm:  # the length of heads' outputs is another with the bias and without
        torch.testing.assert_close(found[0][0], found[1][0], atol=1e-4, rtol=1e-4)


def test_so_does_what_makes_cards_of_it(sae: Dictionary) -> None:
    ids = torch.tensor([PROMPT])
    windows = Windows(ids, torch.ones_like(ids).bool(), torch.ones_like(ids).bool())
    f, logits = [], []
    for folded in (True, False):
        subject = ModelSubject(gpt2(folded=folded), byte_tokenizer(), sae.info.site, sae)
        f.append(sae.encode(subject.residual(windows)))
        logits.append(subject.spliced(windows, lambda x: sae.rebuilt(*sae.top(x, 9), x)))
    torch.testing.assert_close(f[0], f[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "opt"])
def test_what_is_left_off_is_what_the_bias_adds(family: str, sae: Dictionary) -> None:
    """Also where heads share their values."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 99}
    if family == "qwen2":
        sizes |= {"num_key_value_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **sizes, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    layer: Any = decoder_layers(model)[0]
    attention = layer.attn if family == "gpt2" else layer.self_attn
    bias = attention.c_attn.bias[64:] if family == "gpt2" else attention.v_proj.bias
    bias.normal_()
    seen: list[Tensor] = []
    attach(layer, "hook_z", lambda x: (seen.append(x), x)[1])
    model(torch.tensor([PROMPT]))
    left_off = unseen(sae.info, layer)
    assert left_off is not None
    left_off = left_off.clone()
    bias.zero_()
    model(torch.tensor([PROMPT]))
    torch.testing.assert_close(seen[0] - left_off, seen[1], atol=1e-5, rtol=1e-5)


def test_where_the_bias_cannot_be_told_the_dictionary_is_refused(sae: Dictionary) -> None:
    options = {"rows": 1, "capacity": 32, "max_edits": 1, "threads": 1}
    with pytest.raises(Unsteerable, match="without the bias of the values"):
        Runner(tiny_model("gpt_neox"), {"z": sae}, **options)


def test_only_this_family_was_trained_so_and_a_packed_copy_knows_it(sae, tmp_path) -> None:
    assert sae.info.less_value_bias
    assert not opened("saelens_v6_hook_z").info.less_value_bias
    pack(sae, tmp_path / "packed")
    assert open_dictionary(tmp_path / "packed").info.less_value_bias
