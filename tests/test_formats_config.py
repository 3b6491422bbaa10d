"""A config is believed where it fits the tensors, and refused with a sentence otherwise."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch
import yaml
from published import FIXTURES, changed, copied, expected, opened, place
from safetensors.torch import load_file

from dictionaries.errors import DictionaryError
from dictionaries.formats import open_coder, open_dictionary


def test_sae_lens_scale_is_demanded_and_may_stand_in_the_config(tmp_path):
    name = "saelens_v5_expected_average_only_in"
    expected = load_file(FIXTURES / name / "expected.safetensors")
    with pytest.raises(DictionaryError, match="norm_scaling_factor"):
        open_dictionary(place(name))
    folder = changed(name, tmp_path, "cfg.json", norm_scaling_factor=2.5)
    torch.testing.assert_close(open_dictionary(folder).encode(expected["x"]), expected["acts"])
    changed(name, tmp_path, "cfg.json", normalize_activations="none")
    unscaled = open_dictionary(folder).encode(expected["x"])
    torch.testing.assert_close(unscaled, expected["acts_unscaled"])


def test_before_v3_the_scale_was_a_yes_or_no(tmp_path):
    name = "saelens_v2_legacy"
    folder = changed(name, tmp_path, "cfg.json", normalize_activations=True)
    with pytest.raises(DictionaryError, match="expected_average_only_in"):
        open_dictionary(folder)
    for said in (False, None):
        changed(name, tmp_path, "cfg.json", normalize_activations=said)
        acts = open_dictionary(folder).encode(expected(name)["x"])
        torch.testing.assert_close(acts, expected(name)["acts"])


def test_dictionary_learnings_saes_of_a_modules_input_are_refused(tmp_path):
    folder = changed("dl_topk", tmp_path, "config.json")
    config = json.loads((folder / "config.json").read_text())
    config["buffer"]["io"] = "in"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        DictionaryError, match="buffer's io is 'in'; only SAEs of a module's output"
    ):
        open_dictionary(folder)


def test_the_publishers_rule_decides_for_llama_scope():
    expected = load_file(FIXTURES / "llama_scope" / "expected.safetensors")
    f = opened("llama_scope").encode(expected["x"])
    assert ((f > 0) != (expected["acts_saelens"] > 0)).any()


def test_centred_writing_weights_take_the_mean_out_of_what_is_read(tmp_path):
    """Such an SAE was trained on a model whose residual stream has mean zero."""
    expected = load_file(FIXTURES / "saelens_v5_standard" / "expected.safetensors")
    kwargs = {"center_writing_weights": True}
    folder = changed(
        "saelens_v5_standard", tmp_path, "cfg.json", model_from_pretrained_kwargs=kwargs
    )
    x = expected["x"] + 3.0
    plain, free = opened("saelens_v5_standard"), open_dictionary(folder)
    torch.testing.assert_close(free.encode(x), plain.encode(x - x.mean(-1, keepdim=True)))
    assert not torch.allclose(free.encode(x), plain.encode(x), atol=0.1)


@pytest.mark.parametrize(
    ("name", "file", "keys", "said"),
    [
        ("saelens_v6_standard", "cfg.json", {"d_in": 32}, "declares d_in 32.*have 16"),
        ("saelens_v6_standard", "cfg.json", {"d_sae": 65}, "declares d_sae 65.*have 64"),
        ("saelens_v6_standard", "cfg.json", {"architecture": "wavelet"}, "'wavelet' is not opened"),
        ("saelens_v6_standard", "cfg.json", {"architecture": "temporal"}, "'n_heads' should be"),
        ("saelens_v6_standard", "cfg.json", {"architecture": 3}, "architecture 3 is not opened"),
        (
            "saelens_v5_standard",
            "cfg.json",
            {"hook_name": "blocks.8.hook_mlp_in"},
            "can be steered",
        ),
        ("saelens_v5_standard", "cfg.json", {"hook_name": None}, "hook None"),
        ("saelens_v5_standard", "cfg.json", {"activation_fn_str": "tanh-relu"}, "tanh-relu"),
        ("saelens_v5_standard", "cfg.json", {"hook_head_index": 3}, "single attention head"),
        ("saelens_v5_standard", "cfg.json", {"normalize_activations": "x"}, "'x' is not opened"),
        ("saelens_v6_topk", "cfg.json", {"k": 0}, "'k' should be a whole number from 1 up, not 0"),
        ("saelens_v6_topk", "cfg.json", {"k": 65}, "k is 65, but there are 64 features"),
        ("saelens_v6_topk", "cfg.json", {"architecture": "jumprelu"}, "lacks.*'threshold'; it has"),
        ("gemma_scope_2_resid_post", "config.json", {"width": 16384}, "declares width 16384"),
        ("gemma_scope_2_resid_post", "config.json", {"type": "clt"}, "is a clt, but holds no"),
        (
            "gemma_scope_2_resid_post",
            "config.json",
            {"hf_hook_point_in": "model.layers.3.mlp.output"},
            "model.layers.3.mlp.output",
        ),
        ("llama_scope", "hyperparams.json", {"d_model": 4096}, "declares d_model 4096"),
        ("llama_scope", "hyperparams.json", {"hook_point_out": "blocks.9.mlp.hook_in"}, "steered"),
        ("llama_scope", "hyperparams.json", {"jump_relu_threshold": "low"}, "a number, not 'low'"),
        ("llama_scope", "hyperparams.json", {"norm_activation": "token-wise"}, "token-wise"),
        ("llama_scope", "hyperparams.json", {"act_fn": "gelu"}, "'gelu' is not relu"),
        (
            "llama_scope",
            "hyperparams.json",
            {"act_fn": "topk", "jump_relu_threshold": 0},
            "topk without a jump_relu_threshold",
        ),
        (
            "llama_scope",
            "hyperparams.json",
            {"dataset_average_activation_norm": None},
            "no dataset_average_activation_norm",
        ),
        ("llamascopium_topk", "config.json", {"act_fn": "swish"}, "'swish' is not"),
        *(
            (
                "llamascopium_topk",
                "config.json",
                {"sae_type": kind},
                f"'{kind}', which is not opened",
            )
            for kind in ("clt", "crosscoder", "lorsa", "molt")
        ),
        ("llamascopium_topk", "config.json", {"use_glu_encoder": True}, "use_glu_encoder is not"),
        ("sparsify_sae_v1", "cfg.json", {"num_latents": 128}, "declares num_latents 128"),
        ("sparsify_sae_v1", "cfg.json", {"activation": "softmax"}, "'softmax' is not"),
        ("dl_topk", "config.json", {"dict_class": "CrossCoder"}, "'CrossCoder' is not opened"),
        ("dl_topk", "config.json", {"dict_size": 128}, "declares dict_size 128"),
        ("dl_topk", "config.json", {"submodule_name": "the_moon"}, "'the_moon' is not a place"),
        ("dl_gated", "config.json", {"dict_class": "BatchTopKSAE"}, "lacks the tensor 'b_dec'"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(name, file, keys, said, tmp_path):
    folder = changed(name, tmp_path, file, **keys)
    with pytest.raises(DictionaryError, match=said):
        open_dictionary(folder)


def test_batchtopk_without_any_threshold_can_be_added_only(tmp_path):
    dictionary = open_dictionary(
        changed("llamascopium_topk", tmp_path, "config.json", act_fn="batchtopk")
    )
    assert "without a threshold" in dictionary.info.why_not


def test_files_older_than_their_buffers_take_k_from_the_config(tmp_path):
    folder = changed("dl_topk", tmp_path, "config.json")
    state = torch.load(folder / "ae.pt", weights_only=True)
    torch.save({n: t for n, t in state.items() if n not in ("k", "threshold")}, folder / "ae.pt")
    assert open_dictionary(folder).info.k == 6
    changed("dl_topk", tmp_path, "config.json", dict_class="BatchTopKSAE")
    assert not open_dictionary(folder).info.reads_exactly
    changed("dl_topk", tmp_path, "config.json", dict_class="AutoEncoderTopK", k=1e999)
    with pytest.raises(DictionaryError, match="'k' should be a whole number"):
        open_dictionary(folder)


WEIRD = [None, True, -1, 1e999, float("nan"), "x", "", [], {}, [[]], {"k": {}}, 10**30, 10**400]


@pytest.mark.parametrize(
    "name",
    ["saelens_v6_topk", "saelens_v2_legacy", "saelens_v6_matching_pursuit", "saelens_v6_temporal",
     "saelens_v6_skip_transcoder", "gemma_scope_2_transcoder_affine", "gemma_scope_2_crosscoder",
     "llama_scope", "llamascopium_topk", "sparsify_groupmax", "dl_topk", "qwen_scope",
     "connor_rob_hook_z", "circuit_tracer_topk_skip", "circuit_tracer_clt", "temporal_hub"],
)  # fmt: skip
def test_any_value_in_a_config_opens_or_is_refused_with_a_sentence(name, tmp_path):
    called = "temporal" if name == "temporal_hub" else place(name).name
    path = copied(name, tmp_path / "layer_12" / called)
    folder = path if path.is_dir() else path.parent
    texts = (p for p in sorted(folder.iterdir()) if p.suffix in (".json", ".yaml"))
    file = next(p for p in texts if "lm_config" not in p.name)
    config, opened_anyway = yaml.safe_load(file.read_text()), 0
    for level in [config, *(v for v in config.values() if isinstance(v, dict))]:
        for key, value in list(level.items()):
            for weird in WEIRD:
                level[key] = weird
                file.write_text(json.dumps(config) if file.suffix == ".json" else yaml.dump(config))
                with contextlib.suppress(DictionaryError):  # and nothing else
                    open_coder(path)
                    opened_anyway += 1
            level[key] = value
    assert opened_anyway


@pytest.mark.parametrize("text", ["", "{", "[1]", '"a"', "\xff\xfe", "[" * 100_000])
def test_a_config_that_is_not_json_is_refused(text, tmp_path):
    folder = changed("saelens_v6_standard", tmp_path, "cfg.json")
    (folder / "cfg.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DictionaryError, match="JSON"):
        open_dictionary(folder)


def test_a_config_that_only_points_elsewhere_says_where(tmp_path):
    where = "hf://google/gemma-scope-2b-pt-transcoders/layer_0/width_16k/average_l0_76/params.npz"
    listed = f"model_kind: transcoder_set\ntranscoders:\n  - {where}?revision=main\n"
    (tmp_path / "config.yaml").write_text(listed)
    with pytest.raises(DictionaryError, match=r"points at 1 files .* google/gemma.*params\.npz\."):
        open_dictionary(tmp_path)
    for text in ("a: [", "- 1", "\0"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(DictionaryError, match="YAML"):
            open_dictionary(tmp_path)


@pytest.mark.parametrize("name", ["saelens_v5_standard", "saelens_v6_temporal"])
def test_a_single_head_or_an_odd_hook_can_be_computed_and_not_steered(name, tmp_path):
    for keys in (
        {"hook_head_index": 3},
        {"hook_name": "blocks.8.hook_mlp_in"},
        {"hook_name": "hook_embed"},
    ):
        folder = changed(name, tmp_path / str(len(str(keys))), "cfg.json", **keys)
        with pytest.raises(DictionaryError, match="steered"):
            open_dictionary(folder)
        acts, _ = open_coder(folder).coded(expected(name)["x"])
        torch.testing.assert_close(acts, expected(name)["acts"])


def test_a_config_of_aliases_is_refused_before_it_grows(tmp_path):
    """Nine lines of nine aliases each would be a list of gigabytes wherever it is looked at."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    (tmp_path / "config.yaml").write_text("\n".join([*lines, "transcoders: *a9"]))
    with pytest.raises(DictionaryError, match=r"aliases .*write them out"):
        open_dictionary(tmp_path)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("saelens_v6_standard", {"norm_scaling_factor": 2.5}),  # its inputs are not scaled
        ("saelens_v6_topk", {"k": 3}),  # cfg.json has another
        ("llama_scope", {"norm_scaling_factor": 2.5}),
        ("gemma_scope_1_res", {"k": 3}),  # not a TopK at all
        ("goodfire_llama_8b", {"k": 3}),
    ],
)
def test_a_number_given_in_vain_is_refused(name, given):
    with pytest.raises(DictionaryError, match=r"was given, but .* has none, or says its own"):
        open_coder(place(name), **given)
