"""Traps of published formats: each gives wrong numbers, and no error, when it is stepped into."""

from __future__ import annotations

import json

import pytest
import torch
from published import changed, copied, expected, opened, place
from safetensors.torch import load_file, save_file

from dictionaries.dictionary import Site
from dictionaries.edits import Norm, frame, topk_cutoff
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_coder, open_dictionary


def test_a_feature_at_its_threshold_does_not_fire(tmp_path):
    """JumpReLU is strict, and keeps z and not z minus the threshold."""
    folder = changed("saelens_v6_jumprelu", tmp_path, "cfg.json")
    tensors = load_file(folder / "sae_weights.safetensors")
    x = torch.zeros(1, 16)
    tensors["b_enc"][:2] = torch.tensor([0.5, 0.75])
    tensors["threshold"][:2] = 0.5
    save_file(tensors, folder / "sae_weights.safetensors")
    assert open_dictionary(folder).encode(x)[0, :2].tolist() == [0.0, 0.75]


@pytest.mark.parametrize("name", ["qwen_scope", "connor_rob_hook_z", "goodfire_llama_8b"])
def test_a_square_matrix_is_read_as_the_format_says(name, tmp_path):
    """Where d_in == d_sae the shape cannot tell, and the same names mean the opposite."""
    path = copied(name, tmp_path / place(name).parent.name)
    square = torch.randn(16, 16), torch.randn(16, 16)
    keys = {
        "qwen_scope": ("W_enc", "W_dec", "b_enc", "b_dec"),
        "connor_rob_hook_z": ("W_enc", "W_dec", "b_enc", "b_dec"),
        "goodfire_llama_8b": tuple(
            f"{part}_linear.{kind}"
            for kind in ("weight", "bias")
            for part in ("encoder", "decoder")
        ),
    }[name]
    zeros = torch.zeros(16)
    torch.save(dict(zip(keys, (*square, zeros, zeros), strict=True)), path)
    for config in path.parent.glob("*.json"):
        sizes = {"d_sae": 16, "dict_size": 16}
        config.write_text(json.dumps({**json.loads(config.read_text()), **sizes}))
    x = torch.randn(4, 16)
    z = x @ square[0] if name == "connor_rob_hook_z" else x @ square[0].T
    f, recon = open_coder(path).coded(x)
    if name == "qwen_scope":
        z = torch.where(z > topk_cutoff(z, 6), z, 0)
    torch.testing.assert_close(f, z.relu())
    torch.testing.assert_close(
        recon, f @ (square[1] if name == "connor_rob_hook_z" else square[1].T)
    )


def test_whitening_is_folded_into_the_weights_already(tmp_path):
    name = "saelens_v6_standard"
    folder = changed(name, tmp_path, "cfg.json", normalize_activations="covariance_whitening")
    torch.testing.assert_close(
        open_dictionary(folder).encode(expected(name)["x"]), expected(name)["acts"]
    )


def test_sparsify_signed_keeps_the_largest_of_either_sign(tmp_path):
    name = "sparsify_sae_legacy"
    folder = changed(name, tmp_path, "cfg.json", signed=True)
    tensors, x = load_file(folder / "sae.safetensors"), expected(name)["x"]
    f, _ = open_coder(folder).coded(x)
    z = (x - tensors["b_dec"]) @ tensors["encoder.weight"].T + tensors["encoder.bias"]
    assert ((f != 0).sum(-1) == 5).all()
    assert (f < 0).any()
    torch.testing.assert_close(f, torch.where(f != 0, z, 0))
    assert "signed" in open_dictionary(folder).info.why_not


@pytest.mark.parametrize(
    ("module", "site"),
    [
        ("embed_tokens", Site(0, "resid_pre")),
        ("embed_in", Site(0, "resid_pre")),
        ("layers.3", Site(3, "resid_post")),
        ("gpt_neox.layers.4.attention", Site(4, "attn_out")),
        ("h.5.attn", Site(5, "attn_out")),
        ("h.6.mlp", Site(6, "mlp_out")),
    ],
)
def test_sparsify_names_the_module_whose_output_it_read(module, site, tmp_path):
    """source: its README zips hidden_states with [embed_tokens, layers.0, …]."""
    assert open_dictionary(copied("sparsify_sae_v1", tmp_path / module)).info.site == site


def test_openai_layer_norm_goes_with_topk_alone(tmp_path):
    for name, norm in (("openai_v1_relu", "none"), ("openai_v5_topk", "layer_norm")):
        assert str(opened(name).info.norm) == norm
    folder = tmp_path / "mlp_post_act_v4" / "autoencoders"
    path = copied("openai_v1_relu", folder)
    with pytest.raises(DictionaryError, match="inside the MLP"):
        open_dictionary(path)
    assert open_coder(path).info.site == Site(6, "mlp.hook_post")
    state = torch.load(path, weights_only=True)
    torch.save({**state, "activation": "Softplus"}, path)
    with pytest.raises(DictionaryError, match="'Softplus' is not TopK or ReLU"):
        open_dictionary(path)
    with pytest.raises(DictionaryError, match="keep their published path"):
        open_dictionary(copied("openai_v1_relu", tmp_path / "downloads"))


def test_a_batchtopk_without_k_or_threshold_is_not_guessed():
    """Goodfire's R1: what fires depends on the batch, and k stands in the model card."""
    name = "goodfire_r1_tied"
    with pytest.raises(DictionaryError, match="without a threshold"):
        open_coder(place(name)).coded(expected(name)["x"])
    whole = open_coder(place(name), k=5)
    assert whole.joint
    half, _ = whole.coded(expected(name)["x"][:4])
    assert half.count_nonzero() == 20
    assert not torch.equal(half, expected(name)["acts"][:4])


def test_matching_pursuit_goes_on_until_too_little_is_left(tmp_path):
    """Without a bound on steps and with repeated directions allowed, it explains all it can."""
    name = "saelens_v6_matching_pursuit"
    keys = {"max_iterations": 400, "residual_threshold": 0.05, "stop_on_duplicate_support": False}
    folder = changed(name, tmp_path, "cfg.json", **keys)
    tensors = load_file(folder / "sae_weights.safetensors")
    tensors["W_dec"] /= tensors["W_dec"].norm(dim=-1, keepdim=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    x = expected(name)["x"]
    _, recon = open_coder(folder).coded(x)
    left = (x - recon).norm(dim=-1)
    assert (left < 0.05).all()
    changed(name, tmp_path, "cfg.json", residual_threshold=1.0)
    _, rougher = open_coder(folder).coded(x)
    assert ((x - rougher).norm(dim=-1) > left).any()


@pytest.mark.parametrize("name", ["saelens_v6_temporal", "temporal_hub"])
def test_a_temporal_sae_reads_only_what_came_before(name):
    coder, x = open_coder(place(name)), expected(name)["x"]
    assert coder.joint
    whole, _ = coder.coded(x)
    begun, _ = coder.coded(x[:5])
    torch.testing.assert_close(begun, whole[:5])
    alone, _ = coder.coded(x[4:5])
    assert not torch.allclose(alone, whole[4:5], atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400], ids=["nan", "inf", "huge"])
@pytest.mark.parametrize(
    ("name", "file", "key"),
    [
        ("saelens_v5_expected_average_only_in", "cfg.json", "norm_scaling_factor"),
        ("saelens_v6_matching_pursuit", "cfg.json", "residual_threshold"),
        ("saelens_v6_temporal", "cfg.json", "activation_normalization_factor"),
        ("llama_scope", "hyperparams.json", "jump_relu_threshold"),
        ("llama_scope", "hyperparams.json", "dataset_average_activation_norm"),
    ],
)
def test_a_number_that_float32_does_not_hold_is_refused(name, file, key, value, tmp_path):
    """JSON, as Python reads it, has NaN, and whole numbers that no float holds."""
    said = {"in": value, "out": 1.0} if key.startswith("dataset") else value
    folder = changed(name, tmp_path, file, **{key: said})
    with pytest.raises(DictionaryError):
        open_coder(folder)


def test_a_vector_of_zeros_is_framed_as_zeros():
    h, back = frame(torch.zeros(2, 4), Norm.CONSTANT)
    assert not h.any()
    assert not back.any()
