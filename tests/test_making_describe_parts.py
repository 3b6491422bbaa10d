"""Parts of a description: its tally, the memory it takes, and labels without a language model."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import making_described
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from making_described import PLAN
from safetensors.torch import load_file, save_file

from dictionaries.dictionary import Site
from dictionaries.formats import open_dictionary
from dictionaries.making.describe_all import Reading, read_corpus
from dictionaries.making.firings import Text, sparse
from dictionaries.making.subject import Windows
from dictionaries.making.tally import Tally
from dictionaries.making.text import windows
from dictionaries.making.token_label import token_label
from dictionaries.making.token_text import TokenTexts
from server.model_subject import ModelSubject

model = making_described.model  # fixture
many_blocks = making_described.many_blocks  # fixture: every test has it, unasked

# --- Laws of the tally ---


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_tally_is_that_of_all_texts_in_whatever_order(tmp_path_factory, data):
    seed = data.draw(st.integers(0, 2**32))
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 6, size=data.draw(st.integers(1, 12)))
    scale = 2.0 ** draw.integers(-9, 9, size=(len(sizes), 1, 4))
    f = [
        np.float32(draw.exponential(s, (n, 4)) * (draw.random((n, 4)) < 0.6))
        for n, s in zip(sizes, scale, strict=True)
    ]
    order = draw.permutation(len(f))
    tallies = []
    for turn in (range(len(f)), order):
        tally = Tally(tmp_path_factory.mktemp("tally"), 4, seed=seed)
        for document in turn:
            ids = np.arange(len(f[document])) + 10 * document
            one = Text(ids, np.zeros(len(ids), bool), np.array([0, len(ids)]))
            tally.add(sparse(torch.from_numpy(f[document])), one, int(document))
        tallies.append(tally)
    one = tallies[0]
    every = np.concatenate(f)
    assert np.array_equal(one.fired, (every > 0).sum(0))
    assert np.array_equal(one.maximum, every.max(0))
    for i in np.flatnonzero(every.any(0)):
        fires = every[:, i][every[:, i] > 0]
        for tally in tallies:
            told = tally.histogram(i)
            assert told.counts == tuple(np.histogram(fires, bins=np.array(told.edges))[0])
        kept = [tally.exemplars.of(i, float(tally.maximum[i])) for tally in tallies]
        assert [(k.document, k.interval, k.values.tolist()) for k in kept[0]] == [
            (k.document, k.interval, k.values.tolist()) for k in kept[1]
        ]


@pytest.mark.parametrize(("longer", "wider"), [(8, 1), (1, 16)])
def test_memory_does_not_grow_with_the_text_or_the_width(
    longer, wider, model, tokenizer, dictionary, tmp_path
):
    """The most bytes that are alive at once in Python and numpy; what is on disk does not count.

    Wider dictionaries have more features that stay silent, so a block of them is what it was.
    """

    def peak(documents: int, d_sae: int) -> int:
        folder = tmp_path / f"{documents}-{d_sae}"
        shutil.copytree(dictionary.path, folder)
        config = json.loads((folder / "cfg.json").read_text()) | {"d_sae": d_sae}
        (folder / "cfg.json").write_text(json.dumps(config))
        weights = load_file(folder / "sae_weights.safetensors")
        tile = d_sae // 64
        weights = {
            k: v if k == "b_dec" else torch.cat([v] * tile, dim=1 if k == "W_enc" else 0)
            for k, v in weights.items()
        }
        save_file(weights, folder / "sae_weights.safetensors")
        sae = open_dictionary(folder)
        subject = ModelSubject(model, tokenizer, Site(1, "resid_post"), sae)
        reading = Reading(subject, sae, replace(PLAN, every=1e9))
        rows = partial(same_rows, tokenizer, documents)
        read_corpus(reading, rows, folder / "first")  # whatever is cached once and for all
        tracemalloc.start()
        try:
            read_corpus(reading, rows, folder / "second")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(8 * longer, 64 * wider) < 1.2 * peak(8, 64) + 40 * 1024


def same_rows(tokenizer: Any, documents: int) -> Iterator[Windows]:
    return windows(["red fog on the bridge"] * documents, tokenizer, context=40, rows=4)


# --- Labels without a language model ---


@pytest.mark.parametrize(
    ("peaks", "promoted", "label"),
    [
        (
            [["the", " Golden", " Gate"], [" Golden", " Gate"], [" a", " gate"]],
            [],
            "fires on Golden Gate",
        ),
        ([[" a", " bridge"], [" the", " bridge"], [" sea"]], [" gate"], "fires on bridge"),
        ([[" a"], [" b"], [" c"]], [" gate", " tower"], "says gate, tower"),
        ([[" a"]], [" gate"], "fires on a"),
        ([["x", "\n"], ["y", "\n"], [" sea"]], [" \t"], "says ' \\t'"),
        ([[" a"], [" b"]], [], "fires on a, b"),
    ],
)
def test_a_label_is_what_the_peaks_have_in_common_or_what_is_promoted(peaks, promoted, label):
    assert token_label(peaks, promoted) == label


def test_a_sentencepiece_token_keeps_its_space():
    class Pieces:
        def decode(self, ids: list[int]) -> str:
            return ["bridge", "s"][ids[0]]

        def convert_ids_to_tokens(self, id: int) -> str:
            return ["▁bridge", "s"][id]

    assert [TokenTexts(Pieces())(i) for i in (0, 1)] == [" bridge", "s"]
