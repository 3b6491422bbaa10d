"""The packed layout: the same dictionary bit for bit, whatever it was; damage is told."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace

import pytest
import small_sae
import torch
from published import FIXTURES, opened, place
from safetensors.torch import load_file
from small_sae import D_IN, D_SAE, same, write_sae
from typer.testing import CliRunner

from dictionaries import catalog, tensors
from dictionaries import pack as packing
from dictionaries.about import stated_licence
from dictionaries.beside import presets_beside
from dictionaries.errors import DictionaryError
from dictionaries.fit import expected_l0
from dictionaries.formats import open_dictionary, packed, tensor_file
from dictionaries.pack import pack
from server.cli import app
from server.presets import read_builtin

source = small_sae.source  # fixture

IDS = [[7], [299, 0, 7, 7], list(range(40, 60)), []]


def openable():
    """Every fixture that opens to be steered with, but transcoders, which the layout has not."""
    for fixture in sorted(p.name for p in FIXTURES.iterdir()):
        try:
            dictionary = opened(fixture)
        except (DictionaryError, KeyError):  # no dictionary at all has no repository
            continue
        if not dictionary.info.reads:
            yield pytest.param(dictionary, id=fixture)


def test_a_transcoder_is_not_packed_into_less_than_it_is(tmp_path):
    for fixture in ("saelens_v6_skip_transcoder", "gemma_scope_2_transcoder"):
        with pytest.raises(DictionaryError, match=r"cannot be packed: its (d_out|reads) is"):
            pack(open_dictionary(place(fixture)), tmp_path / fixture)


@pytest.mark.parametrize("dictionary", list(openable()))
def test_every_format_packs_to_the_same_dictionary(dictionary, tmp_path):
    pack(dictionary, tmp_path / "packed")
    again = open_dictionary(tmp_path / "packed")
    told = {"format": "packed", "packed_from": dictionary.info.revision}
    assert again.info == replace(dictionary.info, revision=again.info.revision, **told)
    ids = [i % dictionary.info.d_sae for i in (3, 17, 0, 41, 40, 17)]
    assert same(again.rows(ids), dictionary.rows(ids))
    for (_, one), (_, other) in zip(again.directions(), dictionary.directions(), strict=True):
        assert torch.equal(one, other)
    x = 3 * torch.randn(5, dictionary.info.d_in)
    f = torch.rand(5, dictionary.info.d_sae)
    assert torch.equal(again.decode(f, x), dictionary.decode(f, x))
    if dictionary.info.reads_exactly:
        assert torch.equal(again.encode(x), dictionary.encode(x))


@pytest.mark.parametrize("held", [10, 10**6], ids=["long vectors", "short vectors"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_rows_of_every_type_stay_what_they_are_in_tiles_of_any_size(
    dtype, held, tmp_path, monkeypatch
):
    monkeypatch.setattr(tensor_file, "HELD", held)
    monkeypatch.setattr(packing, "TILE", 700)
    monkeypatch.setattr(packing, "FLUSHED", 900)
    dictionary = write_sae(tmp_path / "sae", dtype)
    assert pack(dictionary, tmp_path / "packed")
    again = open_dictionary(tmp_path / "packed")
    for ids in IDS:
        assert same(again.rows(ids), dictionary.rows(ids))
    size = 4 if dtype is torch.float64 else 2
    records = load_file(tmp_path / "packed" / "packed.safetensors")
    assert records["encoder"].shape == (D_SAE, D_IN * size + 2 * 4)
    assert records["decoder"].shape == (D_SAE, D_IN * size)


def test_a_single_feature_is_read_where_rows_end_between_whole_numbers(tmp_path):
    """15 numbers of two bytes: the float32 behind them lies at no multiple of four."""
    odd = {"W_enc": torch.randn(15, D_SAE).half(), "W_dec": torch.randn(D_SAE, 15).half()}
    dictionary = write_sae(tmp_path / "sae", **odd, b_dec=torch.randn(15))
    pack(dictionary, tmp_path / "packed")
    for ids in IDS:
        assert same(open_dictionary(tmp_path / "packed").rows(ids), dictionary.rows(ids))


def test_a_feature_is_two_contiguous_reads(source, tmp_path, monkeypatch):
    pack(source, tmp_path / "packed")
    dictionary, reads, real = open_dictionary(tmp_path / "packed"), [], os.preadv

    def preadv(fd, buffers, offset):
        reads.append(sum(map(len, buffers)))
        return real(fd, buffers, offset)

    monkeypatch.setattr(tensors.os, "preadv", preadv)
    dictionary.rows([123])
    assert sorted(reads) == [4 * D_IN, 4 * D_IN + 8]
    reads.clear()
    dictionary.rows([5, 250, 7])
    assert len(reads) == 6


def test_many_threads_read_their_own_features(source, tmp_path):
    pack(source, tmp_path / "packed")
    dictionary, wanted, wrong = open_dictionary(tmp_path / "packed"), source.rows(range(300)), []

    def read(at):
        for i in range(at, D_SAE, 6):
            if not torch.equal(dictionary.weights.rows([i]).threshold, wanted.threshold[i : i + 1]):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(at,)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(packed=2), "version 2 of the packed layout; this one reads 1"),
        (lambda c: c.update(d_in="24"), "'d_in' should be a whole number"),
        (lambda c: c.update(d_sae=301), "wanted 301 records"),
        (lambda c: c.update(site={"layer": 3, "hook": "moon"}), "hook 'moon'; hooks are"),
        (lambda c: c.update(norm="loud"), "'loud' is not one of none"),
        (lambda c: c["records"]["encoder"].update(dtype="int3"), "'int3', not one of float32"),
        (lambda c: c["records"]["encoder"].update(dtype="float16"), "contradicts itself"),
        (lambda c: c["records"]["encoder"].update(numbers=["luck"]), "numbers are .'luck'."),
        (lambda c: c["records"]["encoder"].update(numbers=["gain", "threshold"]), "no 'gate'"),
        (lambda c: c["folding"].update(enc_scale=None), "'enc_scale' should be a number"),
        (lambda c: c["folding"].update(enc_scale=float("nan")), "'enc_scale' should be a number"),
        (lambda c: c["folding"].update(decoder_norm=7), "7 is not one of ignored"),
        (lambda c: c.pop("records"), "type is None, not one of"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(change, said, source, tmp_path):
    pack(source, tmp_path / "out")
    path = tmp_path / "out" / packed.MANIFEST
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(DictionaryError, match=said):
        open_dictionary(tmp_path / "out")


def test_a_damaged_number_is_named_when_it_is_read(tmp_path):
    pack(write_sae(tmp_path / "sae"), tmp_path / "out")
    file = tmp_path / "out" / "packed.safetensors"
    content = bytearray(file.read_bytes())
    record = 4 * D_IN + 8
    end = len(content) - D_SAE * 4 * D_IN - (D_SAE - 42) * record
    content[end - 4 : end] = b"\x00\x00\xc0\x7f"
    file.write_bytes(content)
    dictionary = open_dictionary(tmp_path / "out")
    dictionary.rows([40])
    with pytest.raises(DictionaryError, match=r"threshold of feature 41 .* is NaN"):
        dictionary.rows([40, 41])


def test_a_packed_copy_says_what_its_sources_name_and_neighbours_said(source, tmp_path):
    (source.path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    folder = tmp_path / "average_l0_71"
    source.path.rename(folder)
    pack(open_dictionary(folder), tmp_path / "packed")
    packed = open_dictionary(tmp_path / "packed")
    assert expected_l0(packed) == 71
    assert stated_licence(packed.path) == "cc-by-4.0"
    assert not pack(open_dictionary(folder), tmp_path / "packed"), "it is all there"


def test_the_command_packs_with_cards_and_presets_and_says_so(source, tmp_path):
    (source.path / "cards.sqlite").write_bytes(b"cards")
    (source.path / "presets.json").write_text("[]")
    ask = ["dictionaries", "pack", str(source.path), "--out", str(tmp_path / "out")]
    first, second = CliRunner().invoke(app, ask), CliRunner().invoke(app, ask)
    assert first.exit_code == second.exit_code == 0
    assert "300 features of 24 numbers, from saelens; with cards.sqlite and" in first.stdout
    assert "it was packed already" in second.stdout
    assert (tmp_path / "out" / "cards.sqlite").read_bytes() == b"cards"
    assert same(open_dictionary(tmp_path / "out").rows([7]), source.rows([7]))
    assert (tmp_path / "out" / "presets.json").read_text() == "[]"
    wrong = CliRunner().invoke(app, [*ask[:2], str(tmp_path / "none" / "at all"), *ask[3:]])
    assert wrong.exit_code == 1
    assert "Traceback" not in wrong.output


def test_a_packed_dictionary_of_the_catalog_keeps_the_catalogs_presets(
    source, tmp_path, monkeypatch
):
    """Served by its folder it is no entry of the catalog's any more."""
    entry = replace(catalog.pairing("gpt2-small-jb"), dictionary=str(source.path))
    monkeypatch.setattr("dictionaries.asked.pairing", {"gpt2-small-jb": entry}.get)
    ask = ["dictionaries", "pack", "gpt2-small-jb", "--out", str(tmp_path / "out")]
    packed = CliRunner().invoke(app, ask)
    assert packed.exit_code == 0, packed.output
    assert "with presets.json" in packed.stdout
    beside = presets_beside(tmp_path / "out")
    assert [preset.name for preset in read_builtin(beside)] == ["cats", "golden-state", "apple"]
    beside.write_text("[]")
    assert CliRunner().invoke(app, ask).exit_code == 0
    assert beside.read_text() == "[]", "one's own stay"
