"""A damaged file is refused with a sentence, wherever the damage is."""

from __future__ import annotations

import json
import os
import random
import struct
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import small_sae
import torch
from published import FIXTURES, copied, place
from small_sae import with_header

from dictionaries.containers import open_tensors
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_coder, open_dictionary

folder = small_sae.folder  # fixture


def header_of(content):
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


DAMAGES = {
    "cut in the data": (lambda c: c[:-10], "was cut short: tensor"),
    "cut in the header": (lambda c: c[:40], "no whole safetensors file"),
    "cut to nothing": (lambda c: b"", "no whole safetensors file"),
    "a header too long": (lambda c: struct.pack("<Q", 2**60) + c[8:], "should be 1152921504606"),
    "a header of noise": (lambda c: c[:8] + b"\xff" * (len(c) - 8), "not safetensors JSON"),
    "a header that is a list": (lambda c: with_header([1], b""), "not safetensors JSON"),
    "nested without end": (lambda c: struct.pack("<Q", 90_000) + b"[" * 90_000, "not safetensors"),
    "a web page": (lambda c: b"<!doctype html><html>" * 40, "no whole safetensors file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_safetensors_file_is_refused(damage, folder):
    file = folder / "sae_weights.safetensors"
    change, said = DAMAGES[damage]
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DictionaryError, match=said):
        open_dictionary(folder)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"data_offsets": [0, 10**15]}, "was cut short"),
        ({"data_offsets": [-8, 40]}, "not safetensors JSON"),
        ({"data_offsets": [40, 8]}, "was cut short"),
        ({"data_offsets": [0, 4]}, "contradicts itself"),
        ({"data_offsets": "ab"}, "not safetensors JSON"),
        ({"data_offsets": [0.0, 8.0]}, "not safetensors JSON"),
        ({"dtype": "F4"}, "type 'F4'; known are F64"),
        ({"dtype": "F64"}, "contradicts itself"),
        ({"shape": [-1, -300]}, "not safetensors JSON"),
        ({"shape": 300}, "not safetensors JSON"),
        ({"shape": [2**40, 2**40]}, "contradicts itself"),
    ],
    ids=str,
)
def test_a_header_that_lies_is_refused(entry, said, folder):
    file = folder / "sae_weights.safetensors"
    header, data = header_of(file.read_bytes())
    header["b_enc"] = {**header["b_enc"], **entry}
    file.write_bytes(with_header(header, data))
    with pytest.raises(DictionaryError, match=said):
        open_dictionary(folder)


def test_a_file_that_shrinks_while_in_use_ends_in_a_sentence(folder):
    dictionary = open_dictionary(folder)
    os.truncate(folder / "sae_weights.safetensors", 2000)
    with pytest.raises(DictionaryError, match="cut short, or changed while in use"):
        dictionary.rows([299])


@pytest.mark.parametrize("cut", [10, 1000, 20_000])
def test_a_damaged_npz_is_refused(cut, tmp_path):
    np.savez(tmp_path / "a.npz", m=np.zeros((60, 60)))
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[:cut])
    with pytest.raises(DictionaryError, match=r"no whole \.npz"):
        open_tensors(tmp_path / "a.npz")


def test_an_npz_of_objects_is_refused_without_unpickling(tmp_path):
    np.savez(tmp_path / "a.npz", m=np.array([{}], dtype=object))
    with pytest.raises(DictionaryError, match=r"type '\|O'"):
        open_tensors(tmp_path / "a.npz")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("saelens_v6_jumprelu", "sae_weights.safetensors"),
        ("gemma_scope_1_res", "params.npz"),
        ("qwen_scope", "layer5.sae.pt"),
    ],
)
def test_of_a_damaged_file_comes_a_dictionary_or_a_sentence(name, file, tmp_path):
    """A few bytes changed, most of them where the file says what lies where."""
    path = copied(name, tmp_path / place(name).relative_to(FIXTURES))
    damaged = path if path.is_file() else path / file
    whole, rng = damaged.read_bytes(), random.Random(1)
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 3, 8])):
            at = rng.choice([rng.randrange(300), rng.randrange(1200), -1 - rng.randrange(900)])
            content[at] = rng.randrange(256)
        damaged.write_bytes(content)
        with suppress(DictionaryError):
            open_coder(path).coded(torch.zeros(1, 16))


PICKLES = {
    "junk": b"\x80\x02}q\x00(X",
    "nothing to pop": b"0.",
    "no memo": b"\x80\x02h\x05.",
    "an item of None": b"\x80\x02Ns.",
    "a call of None": b"\x80\x02NNR.",
    "a state of None": b"\x80\x02NNb.",
    "a storage called None": b"\x80\x02NQ.",
    "a tensor of None": b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNNNtR.",
    "code": b"cos\nsystem\n.",
    "a number": b"\x80\x02K\x05.",
}


@pytest.mark.parametrize("pickled", PICKLES.values(), ids=PICKLES)
def test_a_pickle_that_is_none_is_a_sentence(pickled, tmp_path, folder):
    """And it does not keep its neighbours from being found."""
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    with pytest.raises(DictionaryError, match=r"a\.pt "):
        open_tensors(tmp_path / "a.pt")
    with pytest.raises(DictionaryError, match=f"holds 1: name one, such as {folder.name}"):
        open_dictionary(tmp_path)
    names = ("W_enc", "W_dec", "b_enc", "b_dec")
    torch.save(dict.fromkeys(names, torch.zeros(2, 2)), tmp_path / "layer3.sae.pt")
    with pytest.raises(DictionaryError, match=r"holds 2: name one, such as a\.pt, layer3"):
        open_dictionary(tmp_path)


def test_other_kinds_of_file_hold_no_tensors(tmp_path):
    with pytest.raises(DictionaryError, match=r"not one of \.safetensors, \.npz"):
        open_tensors(tmp_path / "weights.bin")
    with pytest.raises(DictionaryError, match="cannot be opened: No such file"):
        open_tensors(tmp_path / "missing.safetensors")
