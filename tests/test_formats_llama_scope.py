"""Llama Scope and llamascopium where a config says other than their published SAEs do, by the
equations of their publisher (OpenMOSS Language-Model-SAEs).
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from published import changed, expected
from safetensors.torch import load_file, save_file

from dictionaries.errors import DictionaryError
from dictionaries.formats import open_coder, open_dictionary

FIRST, LATER = "llama_scope", "llamascopium_jumprelu"


def test_its_topk_with_a_threshold_runs_as_the_jumprelu_that_it_became(tmp_path):
    folder = changed(FIRST, tmp_path, "hyperparams.json", act_fn="topk")
    info = open_dictionary(folder).info
    assert (info.architecture, info.k) == ("jumprelu", None)
    acts, _ = open_coder(folder).coded(expected(FIRST)["x"])
    torch.testing.assert_close(acts, expected(FIRST)["acts"])


def test_without_decoder_norms_in_the_penalty_the_threshold_is_of_z_itself(tmp_path):
    """Then nothing is folded: features come out along the decoder's own rows."""
    folder = changed(FIRST, tmp_path, "hyperparams.json", sparsity_include_decoder_norm=False)
    tensors = {k: v.float() for k, v in load_file(folder / "checkpoints/final.safetensors").items()}
    said = json.loads((folder / "hyperparams.json").read_text())
    s = math.sqrt(16) / said["dataset_average_activation_norm"]["in"]
    x = expected(FIRST)["x"]
    z = x @ tensors["encoder.weight"].T + tensors["encoder.bias"] / s
    wanted = torch.where(z > 0.35546875, z, 0)
    acts, recon = open_coder(folder).coded(x)
    torch.testing.assert_close(acts, wanted)
    assert not torch.equal(acts > 0, expected(FIRST)["acts"] > 0)
    torch.testing.assert_close(
        recon, wanted @ tensors["decoder.weight"].T + tensors["decoder.bias"] / s
    )


@pytest.mark.parametrize("by_length", [True, False])
@pytest.mark.parametrize("norm", ["dataset-wise", "inference"])
def test_the_later_ones_gate_by_decoder_norms_and_scale_only_where_the_config_says(
    norm, by_length, tmp_path
):
    """`norm_activation: inference` means that the scale is in the weights already."""
    keys = {"norm_activation": norm, "sparsity_include_decoder_norm": by_length}
    folder = changed(LATER, tmp_path, "config.json", **keys)
    tensors = load_file(folder / "sae_weights.safetensors")
    (length,) = {v.item() for k, v in tensors.items() if k.startswith("dataset_average")}
    s = math.sqrt(16) / length if norm == "dataset-wise" else 1.0
    x = expected(LATER)["x"]
    z = (x * s) @ tensors["W_E"] + tensors["b_E"]
    gate = z * tensors["W_D"].norm(dim=-1) if by_length else z
    wanted = torch.where(gate > tensors["activation_function.log_jumprelu_threshold"].exp(), z, 0)
    acts, recon = open_coder(folder).coded(x)
    torch.testing.assert_close(acts, wanted)
    torch.testing.assert_close(recon, (wanted @ tensors["W_D"] + tensors["b_D"]) / s)


def test_an_sae_that_says_one_hook_point_writes_where_it_reads(tmp_path):
    """source: SAEConfig.hook_point_out defaults to hook_point_in."""
    folder = changed(LATER, tmp_path, "config.json", hook_point_out=None)
    info = open_dictionary(folder).info
    assert (str(info.site), info.reads_exactly) == ("layer 10 resid_post", True)


@pytest.mark.parametrize(
    ("fixture", "config", "weights", "bias"),
    [
        (LATER, "config.json", "sae_weights.safetensors", "b_D"),
        (FIRST, "hyperparams.json", "checkpoints/final.safetensors", "decoder.bias"),
    ],
)
def test_without_a_decoder_bias_the_reconstruction_is_that_less_it(
    fixture, config, weights, bias, tmp_path
):
    """source: `if cfg.use_decoder_bias` where b_D is made, and where `decode` adds it."""
    x = expected(fixture)["x"]
    whole = open_dictionary(changed(fixture, tmp_path / "whole", config))
    folder = changed(fixture, tmp_path / "less", config, use_decoder_bias=False)
    with pytest.raises(DictionaryError, match=f"use_decoder_bias false, but .* has '{bias}'"):
        open_dictionary(folder)
    tensors = load_file(folder / weights)
    del tensors[bias]
    save_file(tensors, folder / weights)
    less = open_dictionary(folder)
    (acts, recon), (wanted, with_bias) = less.coded(x), whole.coded(x)
    assert torch.equal(acts, wanted)
    torch.testing.assert_close(recon, with_bias - whole.weights.b_dec)
    assert whole.weights.b_dec.abs().max() > 0
