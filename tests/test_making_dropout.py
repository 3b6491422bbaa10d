"""Laws of dropout: it acts in training alone, on what is written to the residual stream."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from dictionaries.making.dealing import Sample
from dictionaries.making.dropout import dropping
from dictionaries.making.packing import batches
from dictionaries.making.tokenizer import Encoder, train_tokenizer
from dictionaries.making.train_model import Plan, Shape, Trainer, new_model

SHAPE = Shape(hidden=32, layers=2, heads=2, mlp=64, context=128)
SAMPLE = Sample((("user", "Where is the fog?"), ("assistant", "It lies on the bay.")))


def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([text for _, text in SAMPLE.turns], vocab=280)


def test_a_share_of_what_is_written_is_dropped_while_the_model_trains() -> None:
    model = new_model(tokenizer(), SHAPE, seed=0).eval()
    ids = torch.arange(100)[None]
    embedded, layer = model.model.embed_tokens(ids), model.model.layers[0]
    x = torch.randn(1, 100, 64)
    written = layer.mlp.down_proj(x)
    plain = model(ids).logits
    with dropping(model, 0.25):
        assert torch.equal(model(ids).logits, plain)
        model.train()
        for noisy, whole in (
            (model.model.embed_tokens(ids), embedded),
            (layer.mlp.down_proj(x), written),
        ):
            kept = noisy != 0
            assert 0.2 < 1 - kept.float().mean() < 0.3
            torch.testing.assert_close(noisy[kept], whole[kept] / 0.75)
        assert not torch.equal(model(ids).logits, plain)
    assert torch.equal(model(ids).logits, plain)


def test_whole_tokens_are_left_out_while_the_model_trains() -> None:
    model = new_model(tokenizer(), SHAPE, seed=0).eval()
    ids = torch.arange(200)[None]
    plain = model.model.embed_tokens(ids)
    with dropping(model, 0.0, 0.2):
        assert torch.equal(model.model.embed_tokens(ids), plain)
        model.train()
        noisy = model.model.embed_tokens(ids)
    heard = (noisy != 0).any(-1)
    assert 0.1 < 1 - heard.float().mean() < 0.3
    torch.testing.assert_close(noisy[heard], plain[heard] / 0.8)


def test_a_resumed_training_drops_what_it_would_have_dropped(tmp_path: Path) -> None:
    made = tokenizer()
    encoded = Encoder(made).encode(SAMPLE)
    plan = Plan(minutes=None, steps=4, rows=2, length=64, dropout=0.3)

    def trained(folder: Path, *, until: float = 1.0) -> Trainer:
        trainer = Trainer(new_model(made, SHAPE, seed=0), made, plan, folder)
        with trainer.running():
            trainer.train(lambda seed: iter(lambda: SAMPLE, None), until=until)
        return trainer

    whole, _ = trained(tmp_path / "whole"), trained(tmp_path / "cut", until=0.5)
    resumed = trained(tmp_path / "cut")
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)
    batch = next(batches([encoded] * 8, rows=2, length=64, pad=0))
    with dropping(whole.model, 0.3):
        noisy = whole.update(batch)
    assert resumed.update(batch) != noisy
