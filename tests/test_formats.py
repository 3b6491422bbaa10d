"""Every published SAE format, on small checkpoints in its own layout with known activations.

`fixtures/<name>/` holds `expected.safetensors` (x, acts, recon of the format's own library) and the
checkpoint under its repository's name.
"""

from __future__ import annotations

import pytest
import torch
from published import FIXTURES, IDS, meta, missing_scale, opened, place
from safetensors.torch import load_file

from dictionaries.edits import EditTable, Op, frame, read, steer
from dictionaries.errors import DictionaryError
from dictionaries.formats import FORMATS, open_coder, open_dictionary

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
    elsewhere = {"packed", "directions", "control_vector"}  # test_pack, test_directions, …
    assert families | elsewhere | {said[0] for said in LAYERED.values()} == set(FORMATS)


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
