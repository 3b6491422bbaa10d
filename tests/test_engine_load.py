"""A folder on disk -> a model and tokenizer that run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from server.engine.load import load_model
from server.errors import SteerdeckError


@pytest.fixture
def saved(make_model, tokenizer, tmp_path: Path) -> Path:
    make_model().to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_model_comes_back_ready_for_inference(saved, make_model, tokenizer) -> None:
    model, loaded = load_model(saved)
    assert model.dtype == torch.float32, "half precision is slower on a CPU"
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert loaded.encode("a<|end|>") == tokenizer.encode("a<|end|>")
    assert loaded.chat_template == tokenizer.chat_template
    half, _ = load_model(saved, dtype="bfloat16")
    assert half.dtype == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
@pytest.mark.parametrize("device", ["gpu", "cuda:7"])
def test_a_device_that_is_not_there_is_told_in_a_sentence(saved, device: str) -> None:
    with pytest.raises(SteerdeckError, match=rf"cannot be put on {device}: .*cpu, cuda") as refused:
        load_model(saved, device=device)
    assert "\n" not in str(refused.value)


def test_a_folder_that_holds_no_model_is_refused_with_its_name(
    saved, tmp_path, monkeypatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SteerdeckError, match="empty could not be loaded as a language model"):
        load_model(empty)
    with pytest.raises(SteerdeckError, match="could not be loaded"):
        load_model(saved, dtype="float7")

    class Slow:
        is_fast = False

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: Slow())
    with pytest.raises(SteerdeckError, match=r"has no tokenizer.json"):
        load_model(saved)


def test_weights_that_lack_a_tensor_are_refused_with_its_name(saved) -> None:
    weights = load_file(saved / "model.safetensors")
    gone = [name for name in weights if "layers.1." in name]
    for name in gone:
        del weights[name]
    save_file(weights, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(SteerdeckError, match=f"lacks {len(gone)} tensors") as refused:
        load_model(saved)
    assert min(gone) in str(refused.value)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gemma3", "qwen3", "gpt_neox"])
def test_every_family_is_whole_as_it_was_saved(family, make_model, tokenizer, tmp_path) -> None:
    make_model(family).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    load_model(tmp_path)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.safetensors", lambda whole: whole[: len(whole) // 2], "download it again"),
        ("model.safetensors", lambda _: LFS, "download it again"),
        ("model.safetensors", lambda _: b"", "download it again"),
        ("tokenizer.json", lambda _: b"{}", "Error: "),
        ("config.json", lambda whole: whole.replace(b'_size": 259', b'_size": 25'), "Error: "),
        ("config.json", lambda whole: whole.replace(b'_heads": 4', b'_heads": 0'), "Error: "),
    ],
)
def test_a_broken_file_is_told_in_a_sentence_with_the_folder(saved, name, content, said) -> None:
    path = saved / name
    broken = content(path.read_bytes())
    assert broken != path.read_bytes()
    path.write_bytes(broken)
    with pytest.raises(SteerdeckError, match=said) as refused:
        load_model(saved)
    assert str(saved) in str(refused.value)
