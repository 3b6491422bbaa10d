"""Traps of published formats: each gives wrong numbers, and no error, when it is stepped into."""

from __future__ import annotations

import contextlib
import json
import shutil

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


def test_scales_that_only_the_registry_has_are_known_by_the_repository(tmp_path):
    """The same folder under another repository's name is refused: nobody knows its scale."""
    name = "saelens_v5_expected_average_only_in"
    hub = tmp_path / "models--jbloom--Gemma-2b-Residual-Stream-SAEs" / "snapshots" / "abc"
    folder = hub / "gemma_2b_blocks.12.hook_resid_post_16384"
    shutil.copytree(place(name), folder)
    x, known = expected(name)["x"], 0.21381938399317255
    wanted = open_dictionary(place(name), norm_scaling_factor=known).encode(x)
    torch.testing.assert_close(open_dictionary(folder).encode(x), wanted)
    with pytest.raises(DictionaryError, match="norm_scaling_factor"):
        open_dictionary(shutil.copytree(folder, hub / "gemma_2b_blocks.10.hook_resid_post_16384"))


@pytest.mark.parametrize("where", ["models--jbloom--GPT2-Small-SAEs-Reformatted", "jbloom"])
def test_centred_writing_weights_are_known_by_the_repository(where, tmp_path):
    """gpt2-small-res-jb's configs do not say that its model's residual stream had mean zero."""
    name = "saelens_v5_standard"
    below = "snapshots" if where.startswith("models") else "GPT2-Small-SAEs-Reformatted"
    folder = shutil.copytree(place(name), tmp_path / where / below / "blocks.8.hook_resid_post")
    x = expected(name)["x"] + 3.0
    plain = opened(name).encode(x - x.mean(-1, keepdim=True))
    torch.testing.assert_close(open_dictionary(folder).encode(x), plain)


def test_a_transcoders_output_is_not_brought_back_to_its_inputs_scale(tmp_path):
    name = "saelens_v6_skip_transcoder"
    folder = changed(name, tmp_path, "cfg.json", normalize_activations="layer_norm")
    tensors = load_file(folder / "sae_weights.safetensors")
    x = expected(name)["x"]
    h = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)
    f, recon = open_coder(folder).coded(x)
    torch.testing.assert_close(f, (h @ tensors["W_enc"] + tensors["b_enc"]).relu())
    wanted = f @ tensors["W_dec"] + tensors["b_dec"] + x @ tensors["W_skip"].T
    torch.testing.assert_close(recon, wanted)
    info = open_dictionary(folder).info
    assert str(info.norm) == "none", "what is added at its output is not scaled"
    changed(name, tmp_path, "cfg.json", normalize_activations="expected_average_only_in")
    with pytest.raises(DictionaryError, match="transcoder with scaled inputs is not opened"):
        open_dictionary(folder, norm_scaling_factor=2.0)


def test_whitening_is_folded_into_the_weights_already(tmp_path):
    name = "saelens_v6_standard"
    folder = changed(name, tmp_path, "cfg.json", normalize_activations="covariance_whitening")
    torch.testing.assert_close(
        open_dictionary(folder).encode(expected(name)["x"]), expected(name)["acts"]
    )


@pytest.mark.parametrize("transcode", [True, False, None])
def test_sparsify_without_the_key_transcode_is_centred(transcode, tmp_path):
    """The key came in 2025-02; until then transcoders subtracted b_dec like everyone."""
    name = "sparsify_skip_transcoder_legacy"
    shutil.copy(place(name).parent / "config.json", tmp_path)
    folder = changed(name, tmp_path, "cfg.json", transcode=transcode)
    acts, _ = open_coder(folder).coded(expected(name)["x"])
    assert torch.allclose(acts, expected(name)["acts"], atol=1e-5) is (transcode is not True)


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


def test_circuit_tracers_topk_asks_for_a_k_that_no_file_has(tmp_path):
    """facebook/crv-8b-instruct-transcoders says `activation: topk` and no k."""
    path = copied("circuit_tracer_topk_skip", tmp_path)
    config = path.parent / "config.yaml"
    config.write_text(config.read_text().replace("k: 6\n", ""))
    tensors = load_file(path)
    del tensors["k"]
    save_file(tensors, path)
    x = expected("circuit_tracer_topk_skip")["x"]
    added = open_dictionary(path)
    assert (added.info.k, added.info.architecture) == (None, "topk_skip_transcoder")
    assert torch.equal(added.rows([3]).dec, open_dictionary(path, k=6).rows([3]).dec)
    with pytest.raises(DictionaryError, match="does not say its k"):
        added.coded(x)
    acts, _ = open_coder(path, k=6).coded(x)
    torch.testing.assert_close(acts, expected("circuit_tracer_topk_skip")["acts"])
    assert ((acts != 0).sum(-1) == 6).all()


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


def test_llama_scope_transcoders_scale_their_two_ends_apart(tmp_path):
    """source: OpenMOSS' standardize_parameters_of_dataset_norm, b_D and W_D by the output's s."""
    lengths = {"in": 8.0, "out": 2.0}
    ends = {
        "hook_point_in": "blocks.15.ln2.hook_normalized",
        "hook_point_out": "blocks.15.hook_mlp_out",
    }
    folder = changed(
        "llama_scope", tmp_path, "hyperparams.json", **ends, dataset_average_activation_norm=lengths
    )
    tensors = {k: v.float() for k, v in load_file(folder / "checkpoints/final.safetensors").items()}
    x = expected("llama_scope")["x"]
    s_in, s_out = 4 / 8.0, 4 / 2.0
    W_D = tensors["decoder.weight"].T * s_in / s_out
    n = W_D.norm(dim=-1)
    z = (x @ tensors["encoder.weight"].T + tensors["encoder.bias"] / s_in) * n
    wanted = torch.where(z > 0.35546875, z, 0)
    f, recon = open_coder(folder).coded(x)
    torch.testing.assert_close(f, wanted)
    torch.testing.assert_close(recon, wanted @ (W_D / n[:, None]) + tensors["decoder.bias"] / s_out)
    info = open_dictionary(folder).info
    assert (info.architecture, str(info.site)) == ("jumprelu_transcoder", "layer 15 mlp_out")
    assert info.reads == "blocks.15.ln2.hook_normalized"


def test_gemma_scope_2_spells_models_in_its_own_way(tmp_path):
    for said, meant in (
        ("gemma-v3-1b-pt", "google/gemma-3-1b-pt"),
        ("google/gemma-3-270m-pt", "google/gemma-3-270m"),
        (None, None),
    ):
        folder = changed(
            "gemma_scope_2_resid_post", tmp_path, "config.json", model_name=said or "x"
        )
        if said is None:
            (folder / "config.json").unlink()
            folder = folder.rename(tmp_path / "layer_13_width_16k")
            shutil.move(folder, tmp_path / "resid_post" / folder.name)
            folder = tmp_path / "resid_post" / folder.name
        assert open_dictionary(folder).info.model == meant


def test_a_gemma_transcoder_is_told_by_its_folder_without_a_config(tmp_path):
    folder = tmp_path / "transcoder_all" / "layer_13_width_16k_l0_small_affine"
    shutil.copytree(place("gemma_scope_2_transcoder_affine"), folder)
    (folder / "config.json").unlink()
    info = open_dictionary(folder).info
    assert info.site == Site(13, "mlp_out")
    assert info.reads == "model.layers.13.pre_feedforward_layernorm.output"


@pytest.mark.parametrize("name", ["gemma_scope_2_crosscoder", "gemma_scope_2_clt"])
def test_several_layers_are_all_there_or_refused(name, tmp_path):
    folder = tmp_path / place(name).name
    shutil.copytree(place(name), folder)
    (folder / "params_layer_2.safetensors").unlink()
    with pytest.raises(DictionaryError, match=r"declares width|wanted \[64, \d, 16\]"):
        open_coder(folder)


def test_a_folder_of_single_file_dictionaries_asks_which(tmp_path):
    path = copied("qwen_scope", tmp_path)
    assert open_dictionary(tmp_path).info.site.layer == 5
    shutil.copy(path, tmp_path / "layer6.sae.pt")
    with pytest.raises(
        DictionaryError, match=r"holds 2: name one, such as layer5\.sae\.pt, layer6"
    ):
        open_dictionary(tmp_path)
    assert open_dictionary(tmp_path / "layer6.sae.pt").info.site.layer == 6


def test_qwen_scope_without_its_config_takes_k_from_the_repositorys_name(tmp_path):
    path = copied("qwen_scope", tmp_path / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_50")
    (path.parent / "config.json").unlink()
    assert open_dictionary(path).info.k == 50
    assert open_dictionary(path, k=6).info.k == 6
    lost = path.parent.rename(tmp_path / "elsewhere") / path.name
    with pytest.raises(DictionaryError, match="does not say its k"):
        open_dictionary(lost)


def test_a_name_without_its_layer_is_refused(tmp_path):
    for name in ("goodfire_llama_8b", "deepseek_r1_qresearch"):
        shutil.copy(place(name), tmp_path / "model.pt")
        with pytest.raises(DictionaryError, match="does not tell where it was trained"):
            open_dictionary(tmp_path / "model.pt")
    assert opened("goodfire_llama_8b").info.model == "meta-llama/Llama-3.1-8B-Instruct"
    assert opened("goodfire_r1_tied").info.model == "deepseek-ai/DeepSeek-R1"
    assert opened("deepseek_r1_qresearch").info.model == "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"


def test_goodfires_topk_takes_k_from_its_name(tmp_path):
    folder = tmp_path / "Hackathon-gpt-oss-20b-SAE-l15"
    folder.mkdir()
    encoder, decoder, bias = torch.randn(64, 16), torch.randn(16, 64), torch.randn(64)
    state = {
        "encoder_linear.weight": encoder,
        "encoder_linear.bias": bias,
        "decoder.weight": decoder,
    }
    path = folder / "topk_sae_l15_exp16_k5.pt"
    torch.save(state, path)
    opened, x = open_dictionary(path), torch.randn(3, 16)
    assert (opened.info.k, opened.info.site, opened.info.model) == (
        5, Site(15, "resid_post"), "openai/gpt-oss-20b",
    )  # fmt: skip
    z = x @ encoder.T + bias
    f, recon = opened.coded(x)
    torch.testing.assert_close(f, torch.where(z > topk_cutoff(z, 5), z, 0).relu())
    torch.testing.assert_close(recon, f @ decoder.T)


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


WEIRD = [None, True, -1, float("inf"), float("nan"), "x", "", [], {}, [[]], 10**30, 10**400]


@pytest.mark.parametrize("name", ["qwen_scope", "connor_rob_hook_z", "circuit_tracer_topk_skip",
                                  "circuit_tracer_clt", "temporal_hub"])  # fmt: skip
def test_any_value_in_a_config_opens_or_is_refused_with_a_sentence(name, tmp_path):
    import yaml

    path = copied(name, tmp_path / "layer_12" / "temporal")
    folder = path if path.is_dir() else path.parent
    file = next(p for p in sorted(folder.iterdir()) if p.suffix in (".json", ".yaml"))
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


@pytest.mark.parametrize("name", ["saelens_v6_temporal", "saelens_v6_matching_pursuit"])
def test_a_single_number_is_no_decoder(name, tmp_path):
    folder = changed(name, tmp_path, "cfg.json")
    weights = folder / "sae_weights.safetensors"
    save_file({**load_file(weights), "W_dec": torch.tensor(1.0)}, weights)
    with pytest.raises(DictionaryError, match=r"has shape \[\]; wanted a matrix"):
        open_coder(folder)


def test_a_config_of_aliases_is_refused_before_it_grows(tmp_path):
    """Nine lines of nine aliases each would be a list of gigabytes wherever it is looked at."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    (tmp_path / "config.yaml").write_text("\n".join([*lines, "transcoders: *a9"]))
    with pytest.raises(DictionaryError, match=r"aliases .*write them out"):
        open_dictionary(tmp_path)


def test_a_folder_called_embedding_does_not_make_a_gemma_sae_one(tmp_path):
    """Only the repository's own does."""
    published = place("gemma_scope_1_res")
    repo = tmp_path / "embedding" / "gemma-scope-2b-pt-res"
    layer = shutil.copytree(published, repo / "layer_12" / "embedding" / "average_l0_82")
    assert open_dictionary(layer).info.site == Site(12, "resid_post")
    own = shutil.copytree(published, repo / "embedding" / "width_4k" / "average_l0_82")
    assert open_dictionary(own).info.site == Site(0, "resid_pre")
    lost = shutil.copytree(published, repo / "width_4k" / "average_l0_82")
    with pytest.raises(DictionaryError, match="folder layer_<number>"):
        open_dictionary(lost)


def test_what_a_transcoder_adds_reaches_the_engine(tmp_path):
    """It is mounted as wide as what it writes, and an op that reads is refused with the reason."""
    from dictionaries.edits import Op
    from server.engine.checks import check_steering
    from server.engine.mount import Mount
    from server.engine.types import FeatureEdit, Steering
    from server.errors import Unsteerable

    transcoder = opened("saelens_v6_skip_transcoder")
    mount = Mount(transcoder, 2, 4, torch.device("cpu"))
    moved = mount.table
    assert transcoder.info.width == 24
    assert moved is not None
    for op, fine in ((Op.ADD, True), (Op.CLAMP, False)):
        edit = FeatureEdit("t", 5, op, 2.0, op.edit(2.0))
        if fine:
            check_steering(Steering((edit,)), {"t": transcoder.info}, 4)
        else:
            with pytest.raises(Unsteerable, match=r"reads blocks\.3\.hook_mlp_in"):
                check_steering(Steering((edit,)), {"t": transcoder.info}, 4)


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


def test_another_file_of_a_dictionarys_folder_is_not_taken_for_it(tmp_path):
    """A checkpoint of the same training, say: which one opens must be the one that was named."""
    folder = copied("saelens_v6_standard", tmp_path / "blocks.12.hook_resid_post")
    for name in ("sae_weights.safetensors", "cfg.json"):
        assert open_dictionary(folder / name).path == folder
    other = load_file(place("saelens_v6_topk") / "sae_weights.safetensors")
    save_file(other, folder / "other.safetensors")
    torch.save(other, folder / "ae_1000.pt")
    for name in ("ae_1000.pt", "other.safetensors"):
        with pytest.raises(DictionaryError, match=f"{name} is not the weights of the dictionary"):
            open_dictionary(folder / name)
    named = shutil.copy(place("qwen_scope"), folder / "layer5.sae.pt")
    assert open_dictionary(named, k=6).info.format == "qwen_scope"


def test_a_vector_of_zeros_is_framed_as_zeros():
    h, back = frame(torch.zeros(2, 4), Norm.CONSTANT)
    assert not h.any()
    assert not back.any()


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("model.layers.12", Site(12, "resid_post")),
        ("transformer.h.3", Site(3, "resid_post")),
        ("model.layers.12.mlp", Site(12, "mlp_out")),
        ("model.language_model.layers.7.self_attn", Site(7, "attn_out")),
    ],
)
def test_saelens_names_places_by_transformers_modules_too(hook, site, tmp_path):
    """As it does for what was trained on a model of transformers' own."""
    name = "saelens_v5_standard"
    folder = changed(name, tmp_path, "cfg.json", hook_name=hook)
    info = open_dictionary(folder).info
    assert (info.site, info.of_module, opened(name).info.of_module) == (site, True, False)
    changed(name, tmp_path, "cfg.json", hook_name="model.layers.12.mlp.up_proj")
    with pytest.raises(DictionaryError, match="not a place that can be steered"):
        open_dictionary(folder)


def test_sparsify_of_a_module_that_may_be_a_transcoder_is_only_added(tmp_path):
    """Until 2025-02 only the repository's config.json told, one folder above."""
    name = "sparsify_skip_transcoder_legacy"
    folder = changed(name, tmp_path / "lost", "cfg.json", skip_connection=False)
    tensors = load_file(folder / "sae.safetensors")
    del tensors["W_skip"]
    save_file(tensors, folder / "sae.safetensors")
    info = open_dictionary(folder).info
    assert not info.reads_exactly
    assert "keep that one folder above" in info.why_not
    above = folder.parent / "config.json"
    for said, reads in (({"transcode": True}, "the input of layers.5.mlp"), ({"k": 5}, "")):
        above.write_text(json.dumps(said))
        info = open_dictionary(folder).info
        assert (info.reads, info.reads_exactly) == (reads, not reads)


def test_the_revision_of_a_cross_layer_transcoder_is_of_its_decoders_too(tmp_path):
    folder = shutil.copytree(place("circuit_tracer_clt"), tmp_path / "clt")
    before = open_coder(folder).info.revision
    tensors = load_file(folder / "W_dec_1.safetensors")
    save_file(
        {name: 2 * tensor for name, tensor in tensors.items()}, folder / "W_dec_1.safetensors"
    )
    assert open_coder(folder).info.revision != before


def test_llamascopiums_pickled_weights_are_the_same_dictionary(tmp_path):
    """`{"sae": state}`."""
    name = "llamascopium_topk"
    folder = shutil.copytree(place(name), tmp_path / "sae")
    weights = folder / "sae_weights.safetensors"
    torch.save({"sae": load_file(weights)}, folder / "sae_weights.pt")
    weights.unlink()
    for path in (folder, folder / "sae_weights.pt"):
        acts, _ = open_coder(path).coded(expected(name)["x"])
        torch.testing.assert_close(acts, expected(name)["acts"])
