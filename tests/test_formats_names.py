"""What a dictionary is called, and what its path tells: repository, layer, site, model, k."""

from __future__ import annotations

import shutil

import pytest
import torch
from published import FIXTURES, changed, copied, expected, opened, place
from safetensors.torch import load_file, save_file

from dictionaries.dictionary import Site
from dictionaries.edits import Norm, topk_cutoff
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_coder, open_dictionary


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


@pytest.mark.parametrize(
    "where",
    [
        "models--jbloom--GPT2-Small-SAEs-Reformatted/snapshots/abc",
        "jbloom/GPT2-Small-SAEs-Reformatted",
        "GPT2-Small-SAEs-Reformatted",  # as `git clone` calls it
    ],
)
def test_centred_writing_weights_are_known_by_the_repository(where, tmp_path):
    """gpt2-small-res-jb's configs do not say that its model's residual stream had mean zero."""
    name = "saelens_v5_standard"
    folder = shutil.copytree(place(name), tmp_path / where / "blocks.8.hook_resid_post")
    x = expected(name)["x"] + 3.0
    plain = opened(name).encode(x - x.mean(-1, keepdim=True))
    torch.testing.assert_close(open_dictionary(folder).encode(x), plain)


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


@pytest.mark.parametrize(
    ("repo", "model"),
    [
        ("gemma-scope-2-4b-it", "google/gemma-3-4b-it"),
        ("gemma-scope-2-270m-pt", "google/gemma-3-270m"),
    ],
)
def test_gemma_scope_2_without_a_config_is_of_its_repositorys_model(repo, model, tmp_path):
    folder = tmp_path / f"models--google--{repo}/snapshots/{'a' * 40}/resid_post/layer_7_width_16k"
    shutil.copytree(place("gemma_scope_2_resid_post"), folder)
    (folder / "config.json").unlink()
    assert open_dictionary(folder).info.model == model


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("qwen_scope", "some-saes-layer5"),
        ("circuit_tracer_relu", "some-saes-layer_0"),
        ("circuit_tracer_clt", "some-saes"),
        ("saelens_v6_standard", "some-saes"),
        ("llamascopium_jumprelu", "some-saes"),
        ("dl_topk", "org-some-saes"),
    ],
)
def test_what_lies_at_the_root_of_a_cached_repository_is_called_by_it_and_not_by_the_commit(
    name, id, tmp_path
):
    """The name stands in requests, presets and receipts: it may not change with the commit."""
    path = copied(name, tmp_path / "models--org--some-saes" / "snapshots" / ("a" * 40))
    assert open_coder(path).info.id == id


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
