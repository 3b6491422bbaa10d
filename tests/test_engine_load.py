"""A folder on disk -> a model and tokenizer that run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from server.engine.load import load_model
from server.errors import SteerdeckError


@pytest.fixture
def saved(make_model, tokenizer, tmp_path: Path) -> Path:
    make_model().to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_model_comes_back_ready_for_inference(saved, make_model, tokenizer) -> None:
    stages: list[str] = []
    model, loaded = load_model(saved, progress=stages.append)
    assert model.dtype == torch.float32, "half precision is slower on a CPU"
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert loaded.encode("a<|end|>") == tokenizer.encode("a<|end|>")
    assert loaded.chat_template == tokenizer.chat_template
    assert stages == ["loading the tokenizer", "loading the model"]
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

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda _: Slow())
    with pytest.raises(SteerdeckError, match=r"has no tokenizer.json"):
        load_model(saved)
