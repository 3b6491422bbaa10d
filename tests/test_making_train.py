"""A dictionary that is trained for real: it opens, reads, steers, and its metrics are true."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import making_trained
import pytest
import torch
from making_trained import PLAN, corpus, text

from dictionaries.dictionary import Site
from dictionaries.edits import EditTable, FeatureRows, Op
from dictionaries.formats import open_dictionary
from dictionaries.making import splice
from dictionaries.making.feed import held_out
from dictionaries.making.splice import measure
from dictionaries.making.subject import Change, Windows
from dictionaries.making.text import windows
from server import model_subject
from server.model_subject import ModelSubject

model, tiny, made = making_trained.model, making_trained.tiny, making_trained.made  # fixtures


def fvu(note: str) -> float:
    return float(note.split("FVU ")[1].split(",")[0])


def test_training_explains_more_and_more(made):
    _, metrics, told = made
    notes = [note for what, _, note in told if what == "training" and note.startswith("loss")]
    assert fvu(notes[-1]) < 0.5 * fvu(notes[0])
    done = [d for what, d, _ in told if what == "training"]
    assert done == sorted(done)
    assert done[-1] == PLAN.tokens
    assert metrics["fvu"] < 0.5
    assert 5 < metrics["l0"] < 12  # trained with k = 8


def test_the_folder_opens_like_any_dictionary_and_says_where_it_sits(made, tiny):
    out, metrics, _ = made
    opened = open_dictionary(out)
    assert (opened.info.architecture, opened.info.site) == ("jumprelu", Site(1, "resid_post"))
    assert (opened.info.d_in, opened.info.d_sae, opened.info.model) == (32, 96, "tiny")
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert metrics["made"]["tokens"] == PLAN.tokens
    assert not out.with_name("sae.work").exists()
    batch = next(windows(held_out(text), tiny.tokenizer, context=32, rows=8))
    x = tiny.residual(batch)[batch.content]
    error = (x - opened.decode(opened.encode(x), x)).pow(2).sum()
    assert error / (x - x.mean(0)).pow(2).sum() < 0.6


def test_metrics_are_those_of_splicing_the_opened_dictionary(made, tiny):
    """Recomputed in one piece from logits."""
    out, metrics, _ = made
    sae = open_dictionary(out)
    (batch,) = batches = list(
        windows(held_out(text), tiny.tokenizer, context=32, rows=99, rest=True)
    )
    assert metrics["tokens"] == int(batch.content.sum())

    def loss(logits: torch.Tensor) -> float:
        wanted = batch.content[:, 1:]
        return float(
            torch.nn.functional.cross_entropy(logits[:, :-1][wanted], batch.ids[:, 1:][wanted])
        )

    found = measure(tiny, sae, batches, limit=1e9, tokens=10**6, mean=torch.zeros(32))
    spliced = tiny.spliced(batch, lambda x: sae.decode(sae.encode(x), x))
    assert found.loss == pytest.approx(loss(tiny.logits(batch)), rel=1e-4)
    assert found.loss_spliced == pytest.approx(loss(spliced), rel=1e-4)
    zeros = loss(tiny.spliced(batch, torch.zeros_like))
    assert found.loss_ablated == pytest.approx(zeros, rel=1e-4)
    x = tiny.residual(batch)[batch.content]
    f = sae.encode(x)
    assert found.l0 == pytest.approx(float((f > 0).sum(-1).float().mean()))
    assert found.dead == int((f == 0).all(0).sum())
    error = (x - sae.decode(f, x)).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert found.fvu == pytest.approx(float(error), rel=1e-4)
    assert found.left_out == 0
    assert metrics["loss_recovered"] == pytest.approx(
        (metrics["loss_ablated"] - found.loss_spliced) / (metrics["loss_ablated"] - found.loss),
        rel=1e-3,
    )
    limit = float(x.norm(dim=-1).median())
    cut = measure(tiny, sae, batches, limit=limit, tokens=10**6, mean=torch.zeros(32))
    assert 0.4 < cut.left_out < 0.6


def test_measuring_needs_no_float64_of_the_device(made, tiny):
    class OnGpu(torch.Tensor):
        """As on Apple's, which has none."""

        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            if func is torch.Tensor.double:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
            made = super().__torch_function__(func, types, args, kwargs or {})
            return made.as_subclass(torch.Tensor) if func is torch.Tensor.cpu else made

    class OnAMac:
        def __getattr__(self, name: str) -> Any:
            return getattr(tiny, name)

        def spliced(self, batch: Any, rebuilt: Any) -> torch.Tensor:
            return tiny.spliced(
                batch, lambda x: rebuilt(x.as_subclass(OnGpu)).as_subclass(torch.Tensor)
            )

    batches = list(windows(held_out(text), tiny.tokenizer, context=32, rows=9, rest=True))
    options = {"limit": 1e9, "tokens": 10**6, "mean": torch.zeros(32)}
    sae = open_dictionary(made[0])
    assert measure(OnAMac(), sae, batches, **options) == measure(tiny, sae, batches, **options)


def test_steering_with_a_trained_feature_works(made, model, tokenizer):
    """Clamped, the strongest feature reads what it was clamped to, and the logits move."""
    sae = open_dictionary(made[0])
    steered = ModelSubject(model, tokenizer, sae.info.site, sae)
    batch = next(windows(corpus(), tokenizer, context=32, rows=2))
    f = sae.encode(steered.residual(batch))
    feature = int(f[batch.content].sum(0).argmax())
    row = sae.rows([feature])
    names = ("gain", "offset", "gate", "threshold")
    features = FeatureRows(
        row.enc.expand(2, 1, -1),
        *(getattr(row, n).expand(2, 1, 1) for n in names),
        row.dec.expand(2, 1, -1),
    )
    clamp, keep = Op.CLAMP.edit(3 * float(f.max())), Op.SCALE.edit(1.0)
    table = EditTable(
        *(t[:, None, None] for t in torch.tensor([clamp, keep]).unbind(-1)),
    )
    plain, moved = steered.logits(batch), steered.logits(batch, Change(features, table))
    assert (moved[0] - plain[0]).abs().max() > 1
    assert torch.equal(moved[1], plain[1])


def test_what_it_costs_has_the_same_gradient_however_few_rows_fit(tiny, model, monkeypatch):
    """As by hand, in one piece; and no pass with more logits than are meant to be held."""
    batch = next(windows(corpus(), tiny.tokenizer, context=32, rows=5))
    content, attended = batch.content, batch.attended
    kept = torch.arange(int(content.sum())) % 3 > 0
    words = content.masked_scatter(content, kept)
    y = (1.1 * tiny.residual(batch)[words]).requires_grad_()

    def swapped(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        x = output.clone()
        x[words] = y
        return x

    def said() -> torch.Tensor:
        out = model(input_ids=batch.ids, attention_mask=attended.long(), use_cache=False)
        return out.logits[attended].log_softmax(-1)

    own = said().detach()
    handle = model.model.layers[1].register_forward_hook(swapped)
    whole = torch.nn.functional.kl_div(said(), own, reduction="batchmean", log_target=True)
    handle.remove()
    (slope,) = torch.autograd.grad(whole, y)
    row = 4 * batch.ids.shape[1] * model.config.vocab_size
    forward, held = tiny._forward, []

    def watched(windows: Windows, act: Any, *, learning: bool = False) -> torch.Tensor:
        logits = forward(windows, act, learning=learning)
        held.append(len(logits))
        return logits

    monkeypatch.setattr(tiny, "_forward", watched)
    for room, most in ((0, 1), (2 * row, 2), (99 * row, 5)):
        monkeypatch.setattr(model_subject, "LOGIT_BYTES", room)
        held.clear()
        x, cost = tiny.costed(batch, lambda x: kept)
        assert torch.equal(x, tiny.residual(batch)[words])
        paid = cost(y)
        (found,) = torch.autograd.grad(3 * paid, y)
        assert max(held) == most
        assert paid.item() == pytest.approx(whole.item(), rel=1e-4)
        assert torch.allclose(found, 3 * slope, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("fit", [0, 2, 99])
def test_measuring_holds_no_more_logits_than_fit_and_finds_the_same(fit, made, tiny, monkeypatch):
    sae, held = open_dictionary(made[0]), []
    batches = list(windows(held_out(text), tiny.tokenizer, context=32, rows=5, rest=True))
    options = {"limit": 1e9, "tokens": 10**6, "mean": torch.zeros(32)}
    whole = measure(tiny, sae, batches, **options)
    forward = tiny._forward
    row = 4 * 32 * len(tiny.tokenizer)

    def watched(few: Windows, act: Any) -> torch.Tensor:
        held.append(len(few.ids))
        return forward(few, act)

    monkeypatch.setattr(tiny, "_forward", watched)
    monkeypatch.setattr(splice, "LOGIT_BYTES", fit * row)
    monkeypatch.setattr(splice, "_LOSS_BYTES", 3 * row // 32)
    found = measure(tiny, sae, batches, **options)
    assert max(held) == min(5, max(1, fit))
    assert (found.tokens, found.dead) == (whole.tokens, whole.dead)
    assert found.loss == pytest.approx(whole.loss, rel=1e-5)
    assert found.loss_spliced == pytest.approx(whole.loss_spliced, rel=1e-5)


def test_what_is_recovered_of_no_loss_is_not_told(made, tiny):
    """Where the mean in the residual's place costs nothing, any share of it would be noise."""

    class Deaf:
        def __getattr__(self, name: str) -> Any:
            return getattr(tiny, name)

        def spliced(self, batch: Windows, rebuilt: Callable[..., Any]) -> torch.Tensor:
            rebuilt(tiny.residual(batch)[batch.content])
            return tiny.logits(batch)

    batches = windows(held_out(text), tiny.tokenizer, context=32, rows=9, rest=True)
    options = {"limit": 1e9, "tokens": 10**6, "mean": torch.zeros(32)}
    found = measure(Deaf(), open_dictionary(made[0]), batches, **options)
    assert (found.loss_ablated, found.loss_recovered) == (found.loss, None)
