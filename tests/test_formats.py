"""Every published SAE format, on small checkpoints in its own layout with known activations.

`fixtures/<name>/` holds `expected.safetensors` (x, acts, recon of the format's own library) and the
checkpoint under its repository's name.
"""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from published import FIXTURES, changed, meta, missing_scale, opened, place
from safetensors.torch import load_file, save_file

from dictionaries.dictionary import Site
from dictionaries.edits import EditTable, Norm, Op, frame, read, steer
from dictionaries.errors import DictionaryError
from dictionaries.formats import FORMATS, open_coder, open_dictionary

IDS = [3, 17, 40, 41, 60, 5, 63, 0]
EDITS = [
    Op.ADD.edit(1.5),
    Op.CLAMP.edit(3.0),
    Op.SCALE.edit(2.5),
    Op.ABLATE.edit(0),
    Op.AT_LEAST.edit(0.8),
    Op.AT_MOST.edit(0.2),
    Op.CLAMP.edit(0.7),
    Op.SCALE.edit(-1.0),
]

# fixture: (format, architecture, site, norm, k)
READABLE = {
    "saelens_v2_legacy": ("saelens", "standard", "layer 8 resid_pre", "none", None),
    "saelens_v5_standard": ("saelens", "standard", "layer 8 resid_post", "none", None),
    "saelens_v5_gated": ("saelens", "gated", "layer 8 resid_post", "none", None),
    "saelens_v5_jumprelu": ("saelens", "jumprelu", "layer 8 resid_post", "none", None),
    "saelens_v5_finetuned_scaling": ("saelens", "standard", "layer 8 resid_post", "none", None),
    "saelens_v5_expected_average_only_in": (
        "saelens", "standard", "layer 8 resid_post", "none", None,
    ),
    "saelens_v5_topk_layer_norm": ("saelens", "topk", "layer 8 resid_post", "layer_norm", 6),
    "saelens_v6_standard": ("saelens", "standard", "layer 12 resid_post", "none", None),
    "saelens_v6_gated": ("saelens", "gated", "layer 12 resid_post", "none", None),
    "saelens_v6_jumprelu": ("saelens", "jumprelu", "layer 12 resid_post", "none", None),
    "saelens_v6_jumprelu_from_matryoshka": (
        "saelens", "jumprelu", "layer 12 resid_post", "none", None,
    ),
    "saelens_v6_layer_norm": ("saelens", "standard", "layer 12 resid_post", "layer_norm", None),
    "saelens_v6_constant_norm_rescale": (
        "saelens", "standard", "layer 12 resid_post", "constant_norm_rescale", None,
    ),
    "saelens_v6_topk": ("saelens", "topk", "layer 12 resid_post", "none", 6),
    "saelens_v6_topk_rescaled": ("saelens", "topk", "layer 12 resid_post", "none", 6),
    "saelens_v6_training_batchtopk": (
        "saelens", "batchtopk", "layer 12 resid_post", "none", None,
    ),
    "saelens_v6_hook_z": ("saelens", "standard", "layer 5 hook_z", "none", None),
    "connor_rob_hook_z": ("hook_z", "standard", "layer 5 hook_z", "none", None),
    "deepseek_r1_qresearch": ("qresearch", "standard", "layer 19 resid_post", "none", None),
    "goodfire_llama_8b": ("goodfire", "standard", "layer 19 resid_post", "none", None),
    "openai_v1_relu": ("openai", "standard", "layer 6 mlp_out", "none", None),
    "openai_v5_topk": ("openai", "topk", "layer 6 resid_post", "layer_norm", 6),
    "qwen_scope": ("qwen_scope", "topk", "layer 5 resid_post", "none", 6),
    "gemma_scope_1_embedding": ("gemma_scope_1", "jumprelu", "layer 0 resid_pre", "none", None),
    "gemma_scope_1_res": ("gemma_scope_1", "jumprelu", "layer 20 resid_post", "none", None),
    "gemma_scope_2_resid_post": ("gemma_scope_2", "jumprelu", "layer 13 resid_post", "none", None),
    "llama_scope": ("llama_scope", "jumprelu", "layer 15 resid_post", "none", None),
    "llama_scope_unit_decoder": ("llama_scope", "jumprelu", "layer 15 resid_post", "none", None),
    "llama_scope_r1_distill": ("llama_scope", "jumprelu", "layer 15 resid_post", "none", None),
    "llamascopium_dcp": ("llama_scope", "jumprelu", "layer 10 resid_post", "none", None),
    "llamascopium_jumprelu": ("llama_scope", "jumprelu", "layer 10 resid_post", "none", None),
    "llamascopium_topk": ("llama_scope", "topk", "layer 10 resid_post", "none", 6),
    "sparsify_sae_legacy": ("sparsify", "topk", "layer 10 resid_post", "none", 5),
    "sparsify_sae_v1": ("sparsify", "topk", "layer 3 mlp_out", "none", 5),
    "dl_autoencoder": ("dictionary_learning", "standard", "layer 12 resid_post", "none", None),
    "dl_autoencoder_new": ("dictionary_learning", "standard", "layer 12 resid_post", "none", None),
    "dl_gated": ("dictionary_learning", "gated", "layer 12 resid_post", "none", None),
    "dl_topk": ("dictionary_learning", "topk", "layer 12 resid_post", "none", 6),
    "dl_batchtopk": ("dictionary_learning", "batchtopk", "layer 12 resid_post", "none", None),
    "dl_matryoshka": ("dictionary_learning", "batchtopk", "layer 12 resid_post", "none", None),
    "dl_jumprelu": ("dictionary_learning", "jumprelu", "layer 12 resid_post", "none", None),
}  # fmt: skip

# fixture: (format, architecture, site, a word of the reason); the rest cannot even be added
ADD_ONLY = {
    "saelens_v6_abstopk": ("saelens", "abstopk", "layer 12 resid_post", "signed"),
    "saelens_v6_matching_pursuit": (
        "saelens", "matching_pursuit", "layer 12 resid_post", "iteration",
    ),
    "saelens_v6_temporal": ("saelens", "temporal", "layer 12 resid_post", "whole text before"),
    "temporal_hub": ("temporal", "temporal", "layer 12 resid_post", "whole text before"),
    "sparsify_groupmax": ("sparsify", "groupmax", "layer 3 resid_post", "group"),
    "dl_batchtopk_untracked_threshold": (
        "dictionary_learning", "batchtopk", "layer 12 resid_post", "before its threshold was",
    ),
    "goodfire_r1_tied": ("goodfire", "batchtopk", "layer 37 resid_post", "without a threshold"),
}  # fmt: skip
TRANSCODERS = {
    "saelens_v6_transcoder": ("saelens", "transcoder", "layer 3 mlp_out", "blocks.3.hook_mlp_in"),
    "saelens_v6_skip_transcoder": (
        "saelens", "skip_transcoder", "layer 3 mlp_out", "blocks.3.hook_mlp_in",
    ),
    "saelens_v6_jumprelu_transcoder": (
        "saelens", "jumprelu_transcoder", "layer 3 mlp_out", "blocks.3.hook_mlp_in",
    ),
    "saelens_v6_jumprelu_skip_transcoder": (
        "saelens", "jumprelu_skip_transcoder", "layer 3 mlp_out", "blocks.3.hook_mlp_in",
    ),
    "gemma_scope_1_transcoder": (
        "gemma_scope_1", "jumprelu_transcoder", "layer 5 mlp_out", "before the gain",
    ),
    "gemma_scope_2_transcoder": (
        "gemma_scope_2", "jumprelu_transcoder", "layer 13 mlp_out",
        "pre_feedforward_layernorm.output",
    ),
    "gemma_scope_2_transcoder_affine": (
        "gemma_scope_2", "jumprelu_skip_transcoder", "layer 13 mlp_out",
        "pre_feedforward_layernorm.output",
    ),
    "sparsify_transcoder_v1": (
        "sparsify", "topk_skip_transcoder", "layer 5 mlp_out", "the input of layers.5.mlp",
    ),
    "sparsify_skip_transcoder_legacy": (
        "sparsify", "topk_skip_transcoder", "layer 5 mlp_out", "the input of layers.5.mlp",
    ),
    "circuit_tracer_relu": ("circuit_tracer", "transcoder", "layer 0 mlp_out", "mlp.hook_in"),
    "circuit_tracer_jumprelu_skip": (
        "circuit_tracer", "jumprelu_skip_transcoder", "layer 0 mlp_out", "mlp.hook_in",
    ),
    "circuit_tracer_topk_skip": (
        "circuit_tracer", "topk_skip_transcoder", "layer 0 mlp_out", "mlp.hook_in",
    ),
}  # fmt: skip
# fixture: (format, architecture, layers)
LAYERED = {
    "gemma_scope_2_crosscoder": ("gemma_scope_2", "jumprelu_crosscoder", (7, 13, 17, 22)),
    "gemma_scope_2_clt": ("gemma_scope_2", "jumprelu_clt", (0, 1, 2)),
    "circuit_tracer_clt": ("circuit_tracer_clt", "clt", (0, 1, 2)),
}
NO_DICTIONARY = {"neuronpedia_export"}


@pytest.fixture(params=READABLE)
def case(request):
    """(dictionary, x, acts, recon, tolerances)."""
    expected = load_file(FIXTURES / request.param / "expected.safetensors")
    tolerance = meta(request.param)["tolerance"]
    return opened(request.param), expected["x"], expected["acts"], expected["recon"], tolerance


def test_every_fixture_is_accounted_for():
    known = [*READABLE, *ADD_ONLY, *TRANSCODERS, *LAYERED]
    assert sorted(p.name for p in FIXTURES.iterdir()) == sorted([*known, *NO_DICTIONARY])
    families = {said[0] for table in (READABLE, ADD_ONLY, TRANSCODERS) for said in table.values()}
    packed = {"packed"}  # is made of the others: see test_pack
    assert families | packed | {said[0] for said in LAYERED.values()} == set(FORMATS)


@pytest.mark.parametrize("name", READABLE)
def test_a_checkpoint_says_what_it_is(name):
    info = opened(name).info
    assert (info.format, info.architecture, str(info.site), str(info.norm), info.k) == READABLE[
        name
    ]
    assert (info.d_in, info.d_sae) == (meta(name)["d_in"], meta(name)["d_sae"])
    assert info.reads_exactly
    assert len(info.revision) == 16
    assert "/" not in info.id


def test_encoding_gives_the_formats_own_activations(case):
    dictionary, x, acts, _, tolerance = case
    assert (acts > 0).any()
    torch.testing.assert_close(dictionary.encode(x), acts, **tolerance)


def test_decoding_gives_the_formats_own_reconstruction(case):
    dictionary, x, acts, recon, tolerance = case
    torch.testing.assert_close(dictionary.decode(acts, x), recon, **tolerance)


def test_chosen_rows_read_what_the_whole_sae_reads(case):
    dictionary, x, acts, _, tolerance = case
    h, _ = frame(x, dictionary.info.norm)
    f = read(h, dictionary.rows(IDS), dictionary.cutoff(h))
    torch.testing.assert_close(f, acts[:, IDS], **tolerance)


def test_steering_equals_decode_of_edited_features_plus_error(case):
    dictionary, x, acts, recon, _ = case
    edited = acts.clone()
    for i, (scale, shift, floor, ceiling) in zip(IDS, EDITS, strict=True):
        edited[:, i] = (scale * acts[:, i] + shift).clamp(floor, ceiling)
    wanted = dictionary.decode(edited, x) + (x - recon)
    h, _ = frame(x, dictionary.info.norm)
    out = steer(
        x,
        dictionary.rows(IDS),
        EditTable.of(EDITS),
        norm=dictionary.info.norm,
        cutoff=dictionary.cutoff(h),
    )
    assert not torch.allclose(wanted, x, atol=0.1)
    torch.testing.assert_close(out, wanted, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*ADD_ONLY, *TRANSCODERS])
def test_what_cannot_be_read_row_by_row_is_added_only(name):
    dictionary, expected = opened(name), load_file(FIXTURES / name / "expected.safetensors")
    info = dictionary.info
    format, architecture, site, reason = {**ADD_ONLY, **TRANSCODERS}[name]
    assert (info.format, info.architecture, str(info.site)) == (format, architecture, site)
    assert (info.d_in, info.d_sae) == (meta(name)["d_in"], meta(name)["d_sae"])
    assert info.width == expected["recon"].shape[-1]
    assert not info.reads_exactly
    assert reason in info.why_not
    assert (reason in info.reads) == (name in TRANSCODERS)
    with pytest.raises(DictionaryError, match=reason):
        dictionary.encode(expected["x"])
    acts, y = expected["acts"], torch.randn(8, info.width)
    more = acts.clone()
    more[:, 5] += 2.0
    out = steer(y, dictionary.rows([5]), EditTable.of([Op.ADD.edit(2.0)]), norm=info.norm)
    moved = dictionary.decode(more, expected["x"]) - dictionary.decode(acts, expected["x"])
    torch.testing.assert_close(out, y + moved)
    assert (out - y).abs().max() > 0.1


@pytest.mark.parametrize("name", LAYERED)
def test_what_writes_to_several_layers_is_refused_with_the_reason(name):
    with pytest.raises(DictionaryError, match="writes to several layers at once"):
        open_dictionary(place(name))
    info = open_coder(place(name)).info
    assert (info.format, info.architecture, info.layers) == LAYERED[name]


@pytest.mark.parametrize("name", [*READABLE, *ADD_ONLY, *TRANSCODERS, *LAYERED])
def test_every_fixture_agrees_with_its_own_library(name):
    """x -> activations and reconstruction, whether or not it can be steered with."""
    about, expected = meta(name), load_file(FIXTURES / name / "expected.safetensors")
    given = {"norm_scaling_factor": missing_scale(name)}
    k = 5 if name == "goodfire_r1_tied" else None  # a published one's stands in its model card
    acts, recon = open_coder(place(name), k=k, **given).coded(expected["x"])
    torch.testing.assert_close(acts, expected["acts"], **about["tolerance"])
    torch.testing.assert_close(recon, expected["recon"], **about["tolerance"])
    assert acts.any()


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


WEIRD = [None, True, -1, 1e999, "x", "", [], {}, [[]], {"k": {}}, 10**30]


@pytest.mark.parametrize(
    "name",
    ["saelens_v6_topk", "saelens_v2_legacy", "saelens_v6_matching_pursuit", "saelens_v6_temporal",
     "saelens_v6_skip_transcoder", "gemma_scope_2_transcoder_affine", "gemma_scope_2_crosscoder",
     "llama_scope", "llamascopium_topk", "sparsify_groupmax", "dl_topk"],
)  # fmt: skip
def test_any_value_in_a_config_opens_or_is_refused_with_a_sentence(name, tmp_path):
    folder = tmp_path / place(name).name
    shutil.copytree(place(name), folder)
    file = next(p for p in sorted(folder.glob("*.json")) if "lm_config" not in p.name)
    config, tried, opened_anyway = json.loads(file.read_text()), 0, 0
    for level in [config, *(v for v in config.values() if isinstance(v, dict))]:
        for key, value in list(level.items()):
            for weird in WEIRD:
                level[key] = weird
                file.write_text(json.dumps(config))
                with contextlib.suppress(DictionaryError):  # and nothing else
                    open_coder(folder)
                    opened_anyway += 1
                tried += 1
            level[key] = value
    assert 0 < opened_anyway < tried


@pytest.mark.parametrize("text", ["", "{", "[1]", '"a"', "\xff\xfe", "[" * 100_000])
def test_a_config_that_is_not_json_is_refused(text, tmp_path):
    folder = changed("saelens_v6_standard", tmp_path, "cfg.json")
    (folder / "cfg.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DictionaryError, match="JSON"):
        open_dictionary(folder)


def test_orientation_is_told_by_the_biases_and_not_by_the_name(tmp_path):
    """The same SAE with both matrices stored the other way round reads the same."""
    folder = changed("saelens_v6_jumprelu", tmp_path, "cfg.json")
    tensors = load_file(folder / "sae_weights.safetensors")
    turned = {k: v.T.contiguous() if v.dim() == 2 else v for k, v in tensors.items()}
    save_file(turned, folder / "sae_weights.safetensors")
    expected = load_file(FIXTURES / "saelens_v6_jumprelu" / "expected.safetensors")
    torch.testing.assert_close(open_dictionary(folder).encode(expected["x"]), expected["acts"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("W_dec"), "lacks the tensor 'W_dec'; it has W_enc, b_dec, b_enc"),
        (lambda t: t.update(b_enc=torch.zeros(63)), "declares d_sae 64, but the tensors have 63"),
        (lambda t: t.update(W_enc=torch.zeros(16, 63)), r"\[16, 63\]; its biases say 64 features"),
        (lambda t: t.update(W_enc=torch.zeros(16, 64, 1)), r"shape \[16, 64, 1\]"),
        (lambda t: t.update(W_enc=torch.zeros(16, 64, dtype=torch.int32)), "wanted floats"),
        (lambda t: t.update(b_dec=torch.zeros(4, 4)), r"shape \[4, 4\]; wanted a vector"),
        (lambda t: t["b_enc"].fill_(float("nan")), "'b_enc'.*NaN"),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(change, said, tmp_path):
    folder = changed("saelens_v6_standard", tmp_path, "cfg.json")
    tensors = load_file(folder / "sae_weights.safetensors")
    change(tensors)
    save_file(tensors, folder / "sae_weights.safetensors")
    with pytest.raises(DictionaryError, match=said):
        open_dictionary(folder)


def test_a_damaged_row_is_named_when_it_is_read(tmp_path):
    folder = changed("saelens_v6_standard", tmp_path, "cfg.json")
    tensors = load_file(folder / "sae_weights.safetensors")
    tensors["W_dec"][41, 2] = float("inf")
    save_file(tensors, folder / "sae_weights.safetensors")
    dictionary = open_dictionary(folder)
    dictionary.rows([40])
    with pytest.raises(DictionaryError, match="decoder row of feature 41 holds NaN or infinity"):
        dictionary.rows([40, 41])
    with pytest.raises(DictionaryError, match="feature 41"):
        dictionary.neighbours(3)


def test_gemma_scope_without_its_repositorys_name_is_refused(tmp_path):
    shutil.copytree(place("gemma_scope_1_res"), tmp_path / "layer_20" / "width_16k")
    with pytest.raises(DictionaryError, match="does not tell what it was trained on"):
        open_dictionary(tmp_path / "layer_20" / "width_16k")


@pytest.mark.parametrize(("what", "hook"), [("mlp", "mlp_out"), ("att", "hook_z")])
def test_gemma_scope_sites_and_models_are_told_by_the_path(what, hook, tmp_path):
    folder = tmp_path / f"models--google--gemma-scope-9b-it-{what}" / "snapshots" / "abc"
    shutil.copytree(place("gemma_scope_1_res"), folder / "layer_31" / "width_16k" / "average_l0_7")
    info = open_dictionary(folder / "layer_31" / "width_16k" / "average_l0_7" / "params.npz").info
    assert (info.site, info.model) == (Site(31, hook), "google/gemma-2-9b-it")
    assert info.id == "layer_31-width_16k-average_l0_7"


def test_gemma_scope_2_is_told_by_its_folder_without_a_config(tmp_path):
    folder = tmp_path / "resid_post_all" / "layer_7_width_16k_l0_small"
    shutil.copytree(place("gemma_scope_2_resid_post"), folder)
    (folder / "config.json").unlink()
    assert open_dictionary(folder).info.site == Site(7, "resid_post")
    moved = folder.rename(tmp_path / "elsewhere")
    with pytest.raises(DictionaryError, match="does not tell where it was trained"):
        open_dictionary(moved)


def test_a_compressed_npz_is_refused_with_the_way_to_convert_it(tmp_path):
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_1"
    folder.mkdir(parents=True)
    arrays = dict(np.load(place("gemma_scope_1_res") / "params.npz"))
    np.savez_compressed(folder / "params.npz", **arrays)
    with pytest.raises(DictionaryError, match=r"compressed.*numpy\.savez"):
        open_dictionary(folder)


def test_a_column_ordered_npz_reads_the_same(tmp_path):
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_1"
    folder.mkdir(parents=True)
    arrays = dict(np.load(place("gemma_scope_1_res") / "params.npz"))
    arrays = {name: np.asfortranarray(array) for name, array in arrays.items()}
    np.savez(folder / "params.npz", **arrays)
    expected = load_file(FIXTURES / "gemma_scope_1_res" / "expected.safetensors")
    dictionary = open_dictionary(folder)
    torch.testing.assert_close(dictionary.encode(expected["x"]), expected["acts"])
    rows, ids = dictionary.rows(IDS), torch.tensor(IDS)
    torch.testing.assert_close(rows.enc, torch.from_numpy(arrays["W_enc"]).T[ids].contiguous())


def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    folder = changed("dl_topk", tmp_path, "config.json")
    torch.save({"b_dec": torch.zeros(16), "x": Bomb()}, folder / "ae.pt")
    with pytest.raises(DictionaryError, match="pickle that wants to run code"):
        open_dictionary(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(3),
        {"a": 1},
        None,
    ],
)
def test_a_torch_file_without_the_tensors_is_refused(content, tmp_path):
    folder = changed("dl_topk", tmp_path, "config.json")
    torch.save(content, folder / "ae.pt")
    with pytest.raises(DictionaryError, match=r"not a dict of tensors|lacks the tensor"):
        open_dictionary(folder)


def test_a_torch_file_cut_short_or_of_the_old_kind_is_refused(tmp_path):
    folder = changed("dl_topk", tmp_path, "config.json")
    content = (folder / "ae.pt").read_bytes()
    (folder / "ae.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(DictionaryError, match="no whole file"):
        open_dictionary(folder)
    torch.save({"b_dec": torch.zeros(3)}, folder / "ae.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(DictionaryError, match="no whole file"):
        open_dictionary(folder)


def test_a_folder_of_many_dictionaries_says_which_it_holds():
    with pytest.raises(DictionaryError, match=r"holds 1: name one, such as .*average_l0_71"):
        open_dictionary(FIXTURES / "gemma_scope_1_res")


def test_what_is_nothing_known_says_what_was_looked_for(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(DictionaryError, match=r"no SAE of a known format.*params\.npz"):
        open_dictionary(tmp_path)
    with pytest.raises(DictionaryError, match="no such file or folder"):
        open_dictionary(tmp_path / "missing")


def test_an_id_has_no_slash():
    folder = place("saelens_v6_standard")
    assert open_dictionary(folder, id="mine-3.b").info.id == "mine-3.b"
    with pytest.raises(DictionaryError, match="'a/b' cannot name a dictionary"):
        open_dictionary(folder, id="a/b")


def test_norms_are_saelens_own_words():
    assert {str(norm) for norm in Norm} == {"none", "layer_norm", "constant_norm_rescale"}
