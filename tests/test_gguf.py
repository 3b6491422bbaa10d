"""GGUF headers: what they say of tensors, and that no hostile one is believed."""

from __future__ import annotations

import struct

import pytest
import torch
from gguf_file import VECTOR, entry, head, text, value, write

from dictionaries.errors import DictionaryError
from dictionaries.gguf import read_gguf

ROWS = {f"direction.{i}": torch.arange(5.0) + i for i in (1, 2, 30)}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("more", [{}, {"general.alignment": 64}, {"a.list": ["x", ""], "b": 0.5}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_and_words_are_read_where_they_lie(dtype, more, version, tmp_path):
    made = {name: row.to(dtype) for name, row in ROWS.items()}
    made["matrix"] = torch.randn(2, 3)
    words, tensors = read_gguf(write(tmp_path / "x.gguf", made, VECTOR | more, version))
    assert words == VECTOR | {key: None if key == "a.list" else v for key, v in more.items()}
    assert {*tensors} == {*made}
    for name, tensor in made.items():
        assert tensors[name].shape == tensor.shape
        assert torch.equal(tensors[name].load(), tensor.float())


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = write(tmp_path / "x.gguf", {"direction.1": torch.ones(3)}).read_bytes()
    end = len(whole) - (-3 * 4 % 32)  # less the padding behind the last tensor
    for size in range(end):
        (tmp_path / "x.gguf").write_bytes(whole[:size])
        with pytest.raises(DictionaryError, match=r"x\.gguf"):
            read_gguf(tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes(whole[:end])
    assert read_gguf(tmp_path / "x.gguf").tensors["direction.1"].load().tolist() == [1, 1, 1]


def said(key: str, kind: int, raw: bytes) -> bytes:
    """A header of one more word, of any type."""
    one = text("general.architecture") + value("controlvector")
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + one + text(key) + struct.pack("<I", kind) + raw


HUGE = 2**64 - 1
ARRAY = struct.Struct("<IQ")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "cut short"),
        (b"GGML" + bytes(60), "does not begin with 'GGUF'"),
        (head(VECTOR, 0, version=1), "version 1 of GGUF; read are 2 and 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648 of GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), "cut short"),
        (head(VECTOR, HUGE), "cut short"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, HUGE), "cut short"),
        (head({}, 0), "architecture None"),
        (head({"general.architecture": 7}, 0), "architecture 7"),
        (head({"general.architecture": "llama", "x": ["y"] * 90_000}, 0), "'llama', a model perh"),
        (head({"x": ["y" * 50] * 90_000} | VECTOR, 0), "a header of more than 1048576 bytes"),
        (said("x", 9, ARRAY.pack(4, HUGE)), "cut short"),
        (said("x", 9, ARRAY.pack(8, HUGE)), "cut short"),
        (said("x", 9, ARRAY.pack(9, 1) + ARRAY.pack(4, 0)), "metadata of the type 9"),
        (said("x", 77, b""), "metadata of the type 77"),
        (head(VECTOR | {"general.alignment": 48}, 0), "alignment is 48, which is no power of two"),
        (head(VECTOR | {"general.alignment": 0}, 0), "alignment is 0"),
        (head(VECTOR | {"general.alignment": 2**30}, 0), "alignment is 1073741824"),
        (head(VECTOR | {"general.alignment": "32"}, 0), "alignment is '32'"),
        (head(VECTOR, 1) + entry("direction.1", (4,), 0, HUGE), "cut short"),
        (head(VECTOR, 1) + entry("direction.1", (HUGE,), 0, 0), "cut short"),
        (head(VECTOR, 1) + entry("direction.1", (HUGE,) * 4, 0, 0), "cut short"),
        (head(VECTOR, 1) + entry("direction.1", (1,) * 5, 0, 0), "has 5 axes"),
        (head(VECTOR, 1) + entry("y" * 90_000, (1,), 0, 0), "a name of 90000 letters"),
        (head({"general.architecture": "y" * 90_000}, 0), "'yyyy"),
        (head(VECTOR, 1) + text("a") + struct.pack("<I", 2**32 - 1), "has 4294967295 axes"),
        (head(VECTOR, 1) + entry("direction.1", (32,), 8, 0) + bytes(64), "ggml's type 8; read"),
        (head(VECTOR, 2) + 2 * entry("a", (0,), 0, 0) + bytes(64), "two tensors called 'a'"),
    ],
)
def test_what_a_header_says_is_held_against_the_file(content, sentence, tmp_path):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(DictionaryError, match=sentence) as told:
        read_gguf(tmp_path / "x.gguf")
    assert len(str(told.value)) < 500 + len(str(tmp_path))


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(DictionaryError, match="cannot be opened"):
        read_gguf(tmp_path / "x.gguf")
