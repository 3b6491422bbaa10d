"""`steerdeck dictionaries encode`: what it writes and refuses, and how little it holds."""

from __future__ import annotations

import math

import pytest
import torch
from cli_runner import dictionaries as run
from published import expected, place
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dictionaries import dictionary
from dictionaries import encode_file as module
from dictionaries.encode_file import encode_file
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_coder


@pytest.mark.parametrize(
    "name",
    [
        "saelens_v6_topk",
        "saelens_v6_jumprelu_skip_transcoder",
        "gemma_scope_2_crosscoder",
        "circuit_tracer_topk_skip",
        "temporal_hub",
    ],
)
def test_encode_writes_what_the_format_defines(name, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROOM", 3 * 64 * 4)  # three vectors at a time, or one
    save_file({"x": expected(name)["x"], "more": torch.zeros(1)}, tmp_path / "x.safetensors")
    target = tmp_path / "y.safetensors"
    said = run("encode", place(name), "--input", tmp_path / "x.safetensors", "--output", target)
    assert said.exit_code == 0, said.output
    made = load_file(target)
    assert set(made) == {"acts", "recon"}
    for tensor in ("acts", "recon"):
        torch.testing.assert_close(made[tensor], expected(name)[tensor], atol=1e-5, rtol=1e-5)
    with safe_open(target, "pt") as file:
        assert len(file.metadata()["revision"]) == 16
    fired = (made["acts"] != 0).sum() / made["acts"][..., 0].numel()
    assert f"{fired:.1f} features fire" in said.output


def test_encode_takes_vectors_of_any_float_type(tmp_path):
    name = "gemma_scope_1_res"
    x = expected(name)["x"].bfloat16()
    save_file({"x": x}, tmp_path / "x.safetensors")
    encode_file(open_coder(place(name)), tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    acts, _ = open_coder(place(name)).coded(x.float())
    torch.testing.assert_close(load_file(tmp_path / "y.safetensors")["acts"], acts)


def test_memory_does_not_grow_with_the_number_of_vectors(tmp_path, monkeypatch):
    """No more vectors are ever in hand than the room allows, and each is encoded once."""
    coder, seen = open_coder(place("saelens_v6_jumprelu")), []
    monkeypatch.setattr(module, "ROOM", 100 * 64 * 4)
    coded = coder.coded
    monkeypatch.setattr(coder, "coded", lambda x: seen.append(len(x)) or coded(x))
    save_file({"x": torch.randn(1050, 16)}, tmp_path / "x.safetensors")
    made = encode_file(coder, tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    assert seen == [100] * 10 + [50]
    assert made.acts == (1050, 64)
    acts, recon = coded(load_file(tmp_path / "x.safetensors")["x"])
    torch.testing.assert_close(
        load_file(tmp_path / "y.safetensors"), {"acts": acts, "recon": recon}
    )


@pytest.mark.parametrize("name", ["saelens_v6_jumprelu", "openai_v5_topk"])
def test_a_wide_dictionary_is_read_once_for_many_vectors(name, tmp_path, monkeypatch):
    """Not once for each handful that has room for all of its activations."""
    coder = open_coder(place(name))
    acts, recon = coder.coded(x := torch.randn(150, 16))
    monkeypatch.setattr(module, "ROOM", 0)
    monkeypatch.setattr(dictionary, "BLOCK", 4 * 16 * 10)
    monkeypatch.setattr(dictionary, "STRIDED", 4 * 16 * 10)
    passes, encoded = [], coder.encoded
    monkeypatch.setattr(coder, "encoded", lambda x: passes.append(len(x)) or encoded(x))
    save_file({"x": x}, tmp_path / "x.safetensors")
    made = encode_file(coder, tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    assert passes == [64, 64, 22]
    assert made.l0 == pytest.approx(acts.count_nonzero().item() / 150)
    torch.testing.assert_close(
        load_file(tmp_path / "y.safetensors"), {"acts": acts, "recon": recon}, atol=1e-5, rtol=1e-5
    )


def test_what_needs_all_vectors_at_once_says_when_they_are_too_many(tmp_path, monkeypatch):
    coder = open_coder(place("temporal_hub"))
    monkeypatch.setattr(module, "JOINT_ROOM", 64 * 4 * 9)
    for n in (9, 10):
        save_file({"x": torch.randn(n, 16)}, tmp_path / "x.safetensors")
        if n == 9:
            encode_file(coder, tmp_path / "x.safetensors", tmp_path / "y.safetensors")
            continue
        with pytest.raises(DictionaryError, match="depend on all vectors at once, and 10 of them"):
            encode_file(coder, tmp_path / "x.safetensors", tmp_path / "z.safetensors")
    assert not (tmp_path / "z.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "x", "said"),
    [
        ("saelens_v6_topk", torch.zeros(3, 17), "shape [3, 17]; 'blocks.12.hook"),
        ("saelens_v6_topk", torch.zeros(17), "16 numbers each, as they are at layer 12 resid"),
        ("saelens_v6_topk", torch.zeros(16), "shape [16]"),
        ("saelens_v6_topk", torch.zeros(0, 16), "shape [0, 16]"),
        ("saelens_v6_hook_z", torch.zeros(3, 4, 4), "side by side: x.flatten(1) of shape [n, 16]"),
        ("gemma_scope_2_clt", torch.zeros(3, 16), "takes [n, 3, 16]: n vectors of the layers"),
        ("saelens_v6_topk", torch.full((2, 16), math.nan), "vector 0 of"),
    ],
)  # fmt: skip
def test_encode_refuses_what_it_cannot_take_with_what_it_takes(name, x, said, tmp_path):
    save_file({"x": x}, tmp_path / "x.safetensors")
    target = tmp_path / "y.safetensors"
    refused = run("encode", place(name), "-i", tmp_path / "x.safetensors", "-o", target)
    assert refused.exit_code == 1
    assert said in refused.output
    assert "Traceback" not in refused.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.safetensors"], "nothing half written"


def test_encode_refuses_files_that_are_not_what_they_should_be(tmp_path):
    own, target = place("saelens_v6_topk"), tmp_path / "y.safetensors"
    x = tmp_path / "x.safetensors"
    save_file({"activations": torch.zeros(2, 16)}, x)
    assert (
        "has no tensor 'x' (it has activations)" in run("encode", own, "-i", x, "-o", target).output
    )
    x.write_bytes(b"not tensors at all")
    assert "cannot be read as safetensors" in run("encode", own, "-i", x, "-o", target).output
    missing = tmp_path / "missing.safetensors"
    assert "cannot be read" in run("encode", own, "-i", missing, "-o", target).output
    assert "the same file" in run("encode", own, "-i", x, "-o", x).output
    assert ".safetensors files" in run("encode", own, "-i", x, "-o", tmp_path / "y.pt").output
    save_file({"x": torch.zeros(2, 16)}, x)
    lost = tmp_path / "no" / "such" / "y.safetensors"
    assert "cannot be written" in run("encode", own, "-i", x, "-o", lost).output
    (tmp_path / "file").write_text("no folder")
    inside = tmp_path / "file" / "y.safetensors"
    said = run("encode", own, "-i", x, "-o", inside).output.replace("\n", " ")
    assert "y.safetensors cannot be written" in said
