"""The tensors of a published format: whichever way they lie, and refused where they do not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from published import FIXTURES, IDS, changed, expected, place
from safetensors.torch import load_file, save_file

from dictionaries.errors import DictionaryError
from dictionaries.formats import open_coder, open_dictionary


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


@pytest.mark.parametrize("name", ["saelens_v6_temporal", "saelens_v6_matching_pursuit"])
def test_a_single_number_is_no_decoder(name, tmp_path):
    folder = changed(name, tmp_path, "cfg.json")
    weights = folder / "sae_weights.safetensors"
    save_file({**load_file(weights), "W_dec": torch.tensor(1.0)}, weights)
    with pytest.raises(DictionaryError, match=r"has shape \[\]; wanted a matrix"):
        open_coder(folder)


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
