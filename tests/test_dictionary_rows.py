"""Rows of an opened dictionary: read on demand, kept for a while, the same in every thread."""

from __future__ import annotations

import os
import random
import threading

import numpy as np
import pytest
import small_sae
import torch
from small_sae import D_IN, D_SAE, with_header, write_sae

from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary, tensor_file
from dictionaries.per_feature import OnDisk

folder = small_sae.folder  # fixture
counted = small_sae.counted  # fixture


def test_steering_one_feature_of_a_huge_dictionary_reads_a_sliver_of_it(tmp_path, counted):
    """16 GB of weights (a sparse file): opening and reading one feature takes kilobytes of W."""
    d_in, d_sae = 2048, 1_100_000
    sizes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}
    header, end = {}, 0
    for name, shape in sizes.items():
        stop = end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, stop]}
        end = stop
    file = tmp_path / "sae_weights.safetensors"
    file.write_bytes(with_header(header, b""))
    os.truncate(file, file.stat().st_size + end)
    (tmp_path / "cfg.json").write_text('{"hook_name": "blocks.3.hook_resid_post"}')

    dictionary = open_dictionary(tmp_path)
    assert sum(length for _, length in counted) < 2 * 4 * d_in, "the header and b_dec"
    counted.clear()
    dictionary.rows([777_777])
    assert sum(length for _, length in counted) == 2 * 4 * d_in + 4, "its rows and its bias"
    counted.clear()
    dictionary.rows([777_777, 777_777])
    assert counted == [], "rows are kept"


def test_kept_rows_are_few_and_the_oldest_go(folder, counted):
    dictionary = open_dictionary(folder)
    dictionary._room = 3
    dictionary.rows([1, 2, 3])
    dictionary.rows([1])
    dictionary.rows([4])  # 2 is the oldest now
    counted.clear()
    dictionary.rows([1, 3, 4])
    assert counted == []
    dictionary.rows([2])
    assert counted != []


def test_rows_come_in_the_order_asked_for_and_may_repeat(folder):
    dictionary = open_dictionary(folder)
    rows = dictionary.rows([250, 0, 250])
    for at, i in enumerate([250, 0, 250]):
        alone = dictionary.rows([i])
        for name in ("enc", "gain", "offset", "gate", "threshold", "dec"):
            assert torch.equal(getattr(rows, name)[at : at + 1], getattr(alone, name))
    none = dictionary.rows([])
    assert (none.enc.shape, none.gate.shape) == ((0, D_IN), (0,))


@pytest.mark.parametrize("ids", [[300], [-1], [0, 10**30]])
def test_an_id_that_is_not_there_is_refused(ids, folder):
    with pytest.raises(DictionaryError, match=f"has features 0 to 299, not {ids[-1]}"):
        open_dictionary(folder).rows(ids)
    with pytest.raises(DictionaryError, match="has features 0 to 299"):
        open_dictionary(folder).neighbours(ids[-1])


def test_long_vectors_are_read_number_by_number_to_the_same_rows(folder, monkeypatch):
    wanted, x = open_dictionary(folder), torch.randn(5, D_IN)
    monkeypatch.setattr(tensor_file, "HELD", 10)
    lazy = open_dictionary(folder)
    assert isinstance(lazy._weights.gate, OnDisk)
    for ids in ([7], [299, 0, 7, 7], list(range(40, 60)), []):
        for name in ("enc", "gain", "offset", "gate", "threshold", "dec"):
            assert torch.equal(getattr(lazy.rows(ids), name), getattr(wanted.rows(ids), name))
    assert torch.equal(lazy.encode(x), wanted.encode(x))
    ids = torch.tensor([40, 90, 42])
    assert torch.equal(lazy.weights.gate[ids], wanted.weights.gate[ids])
    damaged = torch.zeros(D_SAE)
    damaged[41] = float("nan")
    write_sae(folder, threshold=damaged)
    lazy = open_dictionary(folder)
    lazy.rows([40])
    with pytest.raises(DictionaryError, match=r"'threshold'.*NaN or infinity at feature 41"):
        lazy.rows([40, 41])


def test_many_threads_read_the_same_rows(folder):
    dictionary, wrong = open_dictionary(folder), []
    wanted = open_dictionary(folder).rows(list(range(D_SAE)))
    dictionary._room = 20

    def read(seed):
        rng = random.Random(seed)
        for _ in range(30):
            ids = [rng.randrange(D_SAE) for _ in range(6)]
            if not torch.equal(dictionary.rows(ids).dec, wanted.dec[ids]):
                wrong.append(ids)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
