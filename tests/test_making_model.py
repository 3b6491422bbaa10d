"""Laws of training and describing, on a model and a dictionary small enough for a test."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import making_corpus
import pytest
import torch
from safetensors.torch import load_file

from dictionaries.making import sae as saes
from dictionaries.making.activations import Site, caught, content, content_residuals, residuals
from dictionaries.making.compose import Composer
from dictionaries.making.data import Text
from dictionaries.making.dealing import Sample
from dictionaries.making.end_to_end import costs
from dictionaries.making.loss import reply_loss
from dictionaries.making.muon import orthogonalised
from dictionaries.making.packing import batches
from dictionaries.making.steered import Voice, Wish
from dictionaries.making.tokenizer import Encoder, train_tokenizer
from dictionaries.making.train_model import Plan, Shape, Trainer, new_model
from dictionaries.making.train_sae import SaePlan, quality, train_sae
from dictionaries.making.widen import widened

text = making_corpus.corner  # fixture

SHAPE = Shape(hidden=32, layers=2, heads=2, mlp=64, context=128)


@pytest.fixture(scope="module")
def tokenizer(text: Text):
    drift = [p.reply for s in text.train.sheets for p in s.drift]
    return train_tokenizer(drift, vocab=500)


def packed(text: Text, tokenizer, *, rows: int = 4, length: int = 96, seed: int = 3):
    encoder = Encoder(tokenizer)
    encoded = (encoder.encode(s) for s in text.authored(seed))
    return batches(encoded, rows=rows, length=length, pad=0)


@pytest.fixture(scope="module")
def site(text: Text, tokenizer, tmp_path_factory) -> Site:
    """A model after thirty steps: bad at language, but no longer random."""
    model = new_model(tokenizer, SHAPE, seed=0)
    plan = Plan(minutes=None, steps=30, rows=4, length=96)
    trainer = Trainer(model, tokenizer, plan, tmp_path_factory.mktemp("model"))
    with trainer.running():
        trainer.train(text.authored, every=10)
    return Site(model.eval().requires_grad_(False), 1)


@pytest.fixture(scope="module")
def x(site: Site, text: Text, tokenizer) -> torch.Tensor:
    return content_residuals(site, packed(text, tokenizer), 6000)


@pytest.fixture(scope="module")
def sae(x: torch.Tensor) -> saes.Sae:
    return train_sae(x[:5000], SaePlan(d_sae=96, k=6, batch=256, minutes=None, steps=150))


def test_training_lowers_the_loss(site: Site, text: Text, tokenizer) -> None:
    batch = next(packed(text, tokenizer, seed=77))
    fresh = new_model(tokenizer, SHAPE, seed=0)
    assert reply_loss(site.model, batch) < reply_loss(fresh, batch) - 0.5


def test_a_stopped_training_goes_on_where_it_was(text: Text, tokenizer, tmp_path: Path) -> None:
    plan = Plan(minutes=None, steps=4, rows=2, length=64)
    first = Trainer(new_model(tokenizer, SHAPE, seed=0), tokenizer, plan, tmp_path)
    for batch in itertools.islice(packed(text, tokenizer, rows=2, length=64), 2):
        first.update(batch)
    first.save()
    again = Trainer(new_model(tokenizer, SHAPE, seed=5), tokenizer, plan, tmp_path)
    assert (again.step, again.tokens) == (first.step, first.tokens)
    batch = next(packed(text, tokenizer, rows=2, length=64, seed=9))
    assert again.update(batch) == first.update(batch)
    for a, b in zip(again.model.parameters(), first.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*worker:UserWarning")
def test_who_deals_in_another_process_sees_how_far_the_training_is(
    text: Text, tokenizer, tmp_path: Path
) -> None:
    plan = Plan(minutes=None, steps=40, rows=1, length=64, workers=1)
    trainer = Trainer(new_model(tokenizer, SHAPE, seed=0), tokenizer, plan, tmp_path)

    def deal(seed: int) -> Iterator[Sample]:
        for sample in Composer(text.train, seed=seed):
            if float(trainer.shared_progress) > 0.2:
                raise RuntimeError("it is seen")
            yield sample

    with pytest.raises(RuntimeError, match="it is seen"):
        trainer.train(deal)


def test_both_kinds_of_attention_learn_from_the_same_loss(
    site: Site, text: Text, tokenizer
) -> None:
    batch = next(packed(text, tokenizer, seed=78))
    expected = reply_loss(site.model, batch).item()
    site.model.set_attn_implementation("eager")
    try:
        assert reply_loss(site.model, batch).item() == pytest.approx(expected, abs=1e-4)
    finally:
        site.model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_samples_do_not_see_each_other(
    site: Site, text: Text, tokenizer, attention: str
) -> None:
    batch = next(packed(text, tokenizer, length=384))
    row = int((batch.segment == 2).any(-1).nonzero()[0])
    alone = batch.ids[row][batch.segment[row] == 2]
    site.model.set_attn_implementation(attention)
    try:
        x = residuals(site, batch)[row][batch.segment[row] == 2]
    finally:
        site.model.set_attn_implementation("sdpa")
    with caught(site) as seen, torch.inference_mode():
        site.model(input_ids=alone[None])
    assert torch.allclose(seen[0][0], x, atol=1e-4)


def test_a_widened_model_says_the_same_and_learns_with_what_is_new(
    site: Site, text, tokenizer
) -> None:
    narrow, batch = site.model, next(packed(text, tokenizer))
    wide = widened(narrow, 96, seed=1)
    ids = batch.ids[:, :40]
    with torch.no_grad():
        assert torch.allclose(wide(ids).logits, narrow(ids).logits, atol=1e-4)
    reply_loss(wide.train(), batch).backward()
    for layer in wide.model.layers:
        assert layer.mlp.down_proj.weight.shape == (32, 96)
        assert layer.mlp.down_proj.weight.grad[:, 64:].norm() > 0
        assert not torch.equal(layer.mlp.up_proj.weight[64:], layer.mlp.gate_proj.weight[64:])
    assert widened(narrow, 64, seed=1) is widened(narrow, 32, seed=1) is narrow


def test_an_update_of_muon_is_nearly_orthogonal() -> None:
    g = torch.randn(3, 24, 64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(g, steps=5))
    assert values.min() > 0.5
    assert values.max() < 1.5
    assert torch.allclose(orthogonalised(g.mT), orthogonalised(g).mT, atol=1e-5)


def test_the_plan_warms_up_holds_and_ends_near_zero() -> None:
    plan = Plan(minutes=None, steps=100, steady_until=0.45)
    rates = [plan.rate(plan.progress(s, 0.0)) for s in range(101)]
    assert rates[0] < 0.1
    assert rates[10] == rates[40] == 1.0
    assert rates[100] == 0.01
    assert Plan(minutes=1.0).progress(7, 30.0) == 0.5


def test_the_saved_dictionary_has_saelens_names_and_opens_again(
    sae: saes.Sae, x: torch.Tensor, tmp_path: Path
) -> None:
    saes.save(sae, tmp_path, model="m", layer=1, context=96, k=6)
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    assert {n: tuple(t.shape) for n, t in tensors.items()} == {
        "W_enc": (32, 96),
        "b_enc": (96,),
        "W_dec": (96, 32),
        "b_dec": (32,),
        "threshold": (96,),
    }
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (config["architecture"], config["d_in"], config["d_sae"]) == ("jumprelu", 32, 96)
    assert config["metadata"]["hook_name"] == "blocks.1.hook_resid_post"
    assert torch.equal(saes.load(tmp_path).encode(x), sae.encode(x))
    assert torch.allclose(sae.W_dec.norm(dim=-1), torch.ones(96), atol=1e-5)


def test_the_threshold_keeps_about_as_many_features_as_training_did(
    sae: saes.Sae, x: torch.Tensor
) -> None:
    found = quality(sae, x[5000:])
    assert 3 < found.l0 < 9  # trained with k = 6
    assert found.fvu < 0.6


def test_an_anchored_feature_keeps_its_direction_and_learns_to_read(x: torch.Tensor) -> None:
    anchors = torch.nn.functional.normalize(torch.randn(2, 32), dim=-1)
    plan = SaePlan(d_sae=48, k=6, batch=64, minutes=None, steps=20)
    made = train_sae(x[:500], plan, anchors)
    assert torch.equal(made.W_dec[:2], anchors)
    assert not torch.allclose(made.W_enc[:, :2], anchors.T, atol=1e-3)


def test_what_the_residuals_themselves_bring_about_costs_nothing(
    site: Site, text: Text, tokenizer
) -> None:
    below = Site(site.model, 0)
    x, cost = next(costs(below, packed(text, tokenizer, seed=21)))
    assert cost(x).item() == pytest.approx(0.0, abs=1e-6)
    assert cost(x + torch.randn_like(x)).item() > 0.01


def test_a_finish_that_knows_what_it_costs_costs_less(site: Site, text: Text, tokenizer) -> None:
    below, plan = Site(site.model, 0), SaePlan(d_sae=64, k=4, batch=256, minutes=None, steps=200)
    x = content_residuals(below, packed(text, tokenizer), 5000)
    made = [
        train_sae(x, plan),
        train_sae(x, plan, dealt=costs(below, packed(text, tokenizer, seed=21))),
    ]
    unseen = list(itertools.islice(costs(below, packed(text, tokenizer, seed=22)), 8))
    plain, finished = (
        sum(cost(sae.decode(sae.encode(x))).item() for x, cost in unseen) for sae in made
    )
    assert finished < 0.9 * plain


def test_no_special_token_reaches_the_dictionary(site: Site, text: Text, tokenizer) -> None:
    batch = next(packed(text, tokenizer))
    kept = batch.ids[content(batch.ids)]
    special = torch.tensor(tokenizer.all_special_ids)
    assert not torch.isin(kept, special).any()
    assert int(content(batch.ids).sum()) == sum(
        int((~torch.isin(row, special)).sum()) for row in batch.ids
    )


def test_a_clamp_reaches_its_value_on_steered_rows_and_no_other(
    site: Site, sae: saes.Sae, tokenizer
) -> None:
    voice = Voice(site, sae, tokenizer)
    wishes = [Wish("a", 3, 5.0), Wish("b"), Wish("c", 4, 0.0)]
    x = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(0))
    active = torch.tensor([[False, True, True, True]]).expand(3, 4)
    y = voice.steer(x, wishes, active)
    f = sae.encode(x)
    assert torch.equal(y[1], x[1])
    assert torch.equal(y[:, 0], x[:, 0])
    for row, feature, value in ((0, 3, 5.0), (2, 4, 0.0)):
        moved = (value - f[row, 1:, feature])[:, None] * sae.W_dec[feature]
        assert torch.allclose(y[row, 1:], x[row, 1:] + moved, atol=1e-5)


def test_replies_are_seeded_and_unchanged_by_a_clamp_to_what_is_there(
    site: Site, sae: saes.Sae, tokenizer
) -> None:
    voice = Voice(site, sae, tokenizer)
    plain = [Wish("Hello"), Wish("Who are you?")]
    assert voice.answer(plain, tokens=6) == voice.answer(plain, tokens=6)
    steered = [Wish(w.prompt, 3, 40.0) for w in plain]
    assert voice.answer(steered, tokens=6) != voice.answer(plain, tokens=6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_a_compiled_step_is_the_eager_one(text: Text, tokenizer, tmp_path: Path) -> None:
    plan = Plan(minutes=None, steps=9, rows=2, length=64)
    batch = next(packed(text, tokenizer, rows=2, length=64))
    losses = []
    for compiled in (False, True):
        model = new_model(tokenizer, SHAPE, seed=0)
        trainer = Trainer(model, tokenizer, replace(plan, compiled=compiled), tmp_path / "none")
        with trainer.running():
            losses.append([trainer.update(batch).item() for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert losses[1][2] < losses[1][0]
