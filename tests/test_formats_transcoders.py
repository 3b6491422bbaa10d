"""Transcoders, and what writes to several layers: their two ends, and all of their files."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from published import changed, copied, expected, opened, place
from safetensors.torch import load_file, save_file

from dictionaries.dictionary import Site
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_coder, open_dictionary


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


@pytest.mark.parametrize("transcode", [True, False, None])
def test_sparsify_without_the_key_transcode_is_centred(transcode, tmp_path):
    """The key came in 2025-02; until then transcoders subtracted b_dec like everyone."""
    name = "sparsify_skip_transcoder_legacy"
    shutil.copy(place(name).parent / "config.json", tmp_path)
    folder = changed(name, tmp_path, "cfg.json", transcode=transcode)
    acts, _ = open_coder(folder).coded(expected(name)["x"])
    assert torch.allclose(acts, expected(name)["acts"], atol=1e-5) is (transcode is not True)


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


def test_sparsify_without_the_skip_that_it_speaks_of_is_refused(tmp_path):
    folder = copied("sparsify_sae_v1", tmp_path / "layers.3")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"skip_connection": True}))
    with pytest.raises(DictionaryError, match="no W_skip"):
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


def test_a_cross_layer_transcoder_with_thresholds_is_a_jumprelu(tmp_path):
    """`threshold_i`, in the file of the encoder; strictly above it."""
    name = "circuit_tracer_clt"
    folder = shutil.copytree(place(name), tmp_path / "clt")
    for i in range(3):
        file = folder / f"W_enc_{i}.safetensors"
        tensors = load_file(file)
        save_file({**tensors, f"threshold_{i}": torch.full_like(tensors[f"b_enc_{i}"], 0.7)}, file)
    coder = open_coder(folder)
    assert coder.info.architecture == "jumprelu_clt"
    plain, (acts, _) = expected(name)["acts"], coder.coded(expected(name)["x"])
    assert ((plain > 0) & (plain <= 0.7)).any()
    torch.testing.assert_close(acts, torch.where(plain > 0.7, plain, 0))


def test_the_revision_of_a_cross_layer_transcoder_is_of_its_decoders_too(tmp_path):
    folder = shutil.copytree(place("circuit_tracer_clt"), tmp_path / "clt")
    before = open_coder(folder).info.revision
    tensors = load_file(folder / "W_dec_1.safetensors")
    save_file(
        {name: 2 * tensor for name, tensor in tensors.items()}, folder / "W_dec_1.safetensors"
    )
    assert open_coder(folder).info.revision != before
