"""`steerdeck make train`, for real on a tiny model: a dictionary that opens, reads and steers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from dictionaries.dictionary import HOOKS, Site
from dictionaries.edits import EditTable, FeatureRows, Op
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
from dictionaries.making import splice, train_run
from dictionaries.making.feed import Feed, held_out, limit_of, usual
from dictionaries.making.sources import LONGEST
from dictionaries.making.splice import measure
from dictionaries.making.subject import Change, Windows
from dictionaries.making.text import windows
from dictionaries.making.train import train
from dictionaries.making.train_plan import Origin, TrainPlan
from server import model_subject
from server.cli import app
from server.cli.make_options import model_facts
from server.loading import revision
from server.model_subject import ModelSubject
from server.subject import Loaded

ORIGIN = Origin("tiny", ("corpus",))
PLAN = TrainPlan(
    tokens=30_000,
    d_sae=96,
    k=8,
    batch=256,
    lr=3e-3,
    context=32,
    rows=16,
    buffer=6_000,
    measured=800,
)
WORDS = ["bridge", "fog", "red", "gate", "steel", "tower", "sea", "wind", "ship", "light", "cold"]


def corpus(documents: int = 400) -> list[str]:
    draw = random.Random(5)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(3, 9))) for _ in range(documents)]


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Any]) -> Any:
    return make_model()


@pytest.fixture(scope="module")
def tiny(model: Any, tokenizer: Any) -> ModelSubject:
    return ModelSubject(model, tokenizer, Site(1, "resid_post"))


def text() -> Iterator[str]:
    return iter(corpus())


@pytest.fixture(scope="module")
def made(tiny: ModelSubject, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """(the folder, its metrics, every line of progress)."""
    out = tmp_path_factory.mktemp("train") / "sae"
    told: list[tuple[str, float, str]] = []

    @contextmanager
    def showing(what: str, total: float, unit: str) -> Iterator[Callable[[float, str], None]]:
        yield lambda done, note: told.append((what, done, note))

    return out, train(tiny, text, PLAN, out, ORIGIN, showing=showing), told


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


class Stopped(Exception):
    pass


def stopping_after(tokens: int) -> Callable[..., Any]:
    """A `showing` that ends the training there."""

    @contextmanager
    def stopping(what: str, total: float, unit: str) -> Iterator[Callable[[float, str], None]]:
        def advance(done: float, note: str) -> None:
            if done > tokens:
                raise Stopped

        yield advance

    return stopping


def test_a_stopped_training_goes_on_and_ends_with_the_same_bits(made, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(train_run, "_CHECKPOINT", 0.0)
    out = tmp_path / "sae"
    with pytest.raises(Stopped):
        train(tiny, text, PLAN, out, ORIGIN, showing=stopping_after(15_000))
    assert not out.exists()
    with pytest.raises(DictionaryError, match=r"begun with other options \(k 8\)"):
        train(tiny, text, replace(PLAN, k=9), out, ORIGIN)
    train(tiny, text, PLAN, out, ORIGIN)
    one, other = (load_file(d / "sae_weights.safetensors") for d in (out, made[0]))
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("in_round", [1, 2])
def test_an_interrupted_training_keeps_every_whole_round_and_says_how_far(
    in_round, made, tiny, tmp_path
):
    """Though less than a checkpoint's time has gone by; and it ends with the same bits."""
    out = tmp_path / "sae"

    @contextmanager
    def interrupting(what: str, total: float, unit: str) -> Iterator[Callable[[float, str], None]]:
        def advance(done: float, note: str) -> None:
            if note.startswith("reading 3") and done >= 5_000 * in_round:
                raise KeyboardInterrupt

        yield advance

    with pytest.raises(KeyboardInterrupt, match=rf"goes on after {5_888 * in_round:,} tokens"):
        train(tiny, text, PLAN, out, ORIGIN, showing=interrupting)
    train(tiny, text, PLAN, out, ORIGIN)
    one, other = (load_file(d / "sae_weights.safetensors") for d in (out, made[0]))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_interrupted_in_a_rounds_steps_or_before_any_it_says_what_is_kept(tiny, tmp_path):
    """Steps cannot be undone, so that the state is the one of the round before."""

    @contextmanager
    def at(what: str, total: float, unit: str) -> Iterator[Callable[[float, str], None]]:
        def advance(done: float, note: str) -> None:
            if done == stop and note.startswith(begins):
                raise KeyboardInterrupt

        yield advance

    stop, begins = 0.0, "reading"
    with pytest.raises(KeyboardInterrupt, match="begins anew"):
        train(tiny, text, PLAN, tmp_path / "sae", ORIGIN, showing=at)
    assert not (tmp_path / "sae.work").exists()
    stop, begins = 5_888 + 512, "loss"
    with pytest.raises(KeyboardInterrupt, match="goes on after 5,888 tokens"):
        train(tiny, text, PLAN, tmp_path / "sae", ORIGIN, showing=at)


def test_a_finish_on_what_it_costs_costs_less_and_goes_on_where_it_stopped(
    made, tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(train_run, "_CHECKPOINT", 0.0)
    plan = replace(PLAN, end_to_end=0.5)
    one, other = tmp_path / "one", tmp_path / "other"
    train(tiny, text, plan, one, ORIGIN)
    with pytest.raises(Stopped):
        train(tiny, text, plan, other, ORIGIN, showing=stopping_after(24_000))
    train(tiny, text, plan, other, ORIGIN)
    tensors = [load_file(d / "sae_weights.safetensors") for d in (one, other)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert paid(tiny, one) < 0.95 * paid(tiny, made[0])


def paid(tiny: ModelSubject, folder: Path) -> float:
    """What a dictionary's reconstructions of held-out text cost."""
    opened, total = open_dictionary(folder), 0.0
    for batch in windows(held_out(text), tiny.tokenizer, context=32, rows=4, rest=True):
        x, cost = tiny.costed(batch, lambda x: torch.ones(len(x), dtype=torch.bool))
        assert cost(x).item() == pytest.approx(0.0, abs=1e-6)
        total += cost(opened.decode(opened.encode(x), x)).item()
    return total


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


def test_a_stop_while_measuring_does_not_train_again(tiny, tmp_path):
    plan, out = replace(PLAN, tokens=1_000), tmp_path / "sae"
    told: list[float] = []

    @contextmanager
    def stopping(what: str, total: float, unit: str) -> Iterator[Callable[[float, str], None]]:
        if what == "measuring":
            raise Stopped
        yield lambda done, note: told.append(done)

    for _ in range(2):
        told.clear()
        with pytest.raises(Stopped):
            train(tiny, text, plan, out, ORIGIN, showing=stopping)
    assert told == [plan.tokens]
    less = train(tiny, text, replace(plan, measured=200), out, ORIGIN)
    assert less["trained_tokens"] >= plan.tokens
    assert 200 <= less["tokens"] < 400


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


def test_a_finished_training_is_not_begun_again_and_others_work_is_not_overwritten(
    made, tiny, tmp_path
):
    out, metrics, _ = made

    def gone() -> Iterator[str]:
        raise AssertionError("the text was opened")

    assert train(tiny, gone, PLAN, out, ORIGIN) == metrics
    with pytest.raises(DictionaryError, match=r"other options \(seed 0\)"):
        train(tiny, gone, replace(PLAN, seed=1), out, ORIGIN)
    with pytest.raises(DictionaryError, match=r"other options \(field text\)"):
        train(tiny, gone, PLAN, out, replace(ORIGIN, field="body"))
    with pytest.raises(DictionaryError, match=r"other options \(model_revision None\)"):
        train(tiny, gone, PLAN, out, replace(ORIGIN, revision="of a model of the same name"))
    with pytest.raises(DictionaryError, match=r"other options \(the text as it was then\)"):
        train(tiny, gone, PLAN, out, replace(ORIGIN, state="of a file that was added"))
    held_out_by_place = {k: v for k, v in metrics["made"].items() if k != "split"}
    (tmp_path / "metrics.json").write_text(json.dumps({"made": held_out_by_place}))
    with pytest.raises(DictionaryError, match=r"other options \(split None\)"):
        train(tiny, gone, PLAN, tmp_path, ORIGIN)


def test_a_dictionary_made_elsewhere_is_not_overwritten(tiny, make_dictionary):
    with pytest.raises(DictionaryError, match="was not made here"):
        train(tiny, text, PLAN, make_dictionary("elsewhere").path, ORIGIN)


def test_held_out_documents_are_never_trained_on_and_the_rest_all_are(tiny, monkeypatch):
    """Residuals that are their token's number tell which documents they come from."""
    numbered = [chr(65 + i) * 3 for i in range(60)]
    copied = [*numbered, *reversed(numbered)]
    number = dict(
        zip(tiny.tokenizer("".join(numbered))["input_ids"], "".join(numbered), strict=False)
    )
    monkeypatch.setattr(
        tiny,
        "residual",
        lambda w: w.ids[..., None].float().expand(-1, -1, 32),
    )
    feed = Feed(tiny, lambda: iter(copied), context=8, rows=4, size=900, seed=0)
    seen = {number[int(v)] for v in feed.round()[:, 0]}
    out = [document[0] for document in held_out(lambda: iter(copied))]
    assert 2 < len(set(out)) < 10
    assert all(out.count(document) == 2 for document in out), "copies are on one side"
    assert seen == {document[0] for document in numbered} - set(out)
    assert feed.place.epoch == 2  # some 340 tokens a pass


@pytest.mark.parametrize("sources", [1, 2, 3, 4, 5, 10, 20])
def test_every_source_is_trained_on_and_measured_on(sources):
    """However many take turns; and the shortest text has something to measure on."""
    every = [f"{i % sources} {i}" for i in range(200 * sources)]
    out = set(held_out(lambda: iter(every)))
    for source in range(sources):
        own = {document for document in every if document.split()[0] == str(source)}
        assert 1 <= len(own & out) <= 25  # some 10 of 200
    assert next(held_out(lambda: iter(["one"]))) == "one"


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


def test_a_round_holds_no_more_than_its_buffer_and_no_attention_sinks(tiny, monkeypatch):
    def sunk(w: Any) -> torch.Tensor:
        x = torch.ones(*w.ids.shape, 32)
        x[:, 0] = 500.0
        return x

    monkeypatch.setattr(tiny, "residual", sunk)
    feed = Feed(tiny, text, context=32, rows=8, size=200, seed=0)
    first, second = feed.round(), feed.round()
    assert 150 < len(first) < 200
    assert len(second) == 200
    assert first.max() == second.max() == 1.0


def test_a_round_is_of_many_long_documents(tiny, monkeypatch):
    """Books of some hundred rows each: of those trained on, most are in the first few rows."""
    books = [chr(65 + i) * (12 * LONGEST) for i in range(12)]
    monkeypatch.setattr(tiny, "residual", lambda w: w.ids[..., None].float().expand(-1, -1, 32))
    feed = Feed(tiny, lambda: iter(books), context=512, rows=8, size=16 * LONGEST, seed=0)
    out = {document[0] for document in held_out(lambda: iter(books))}
    assert len(feed.round()[:, 0].unique()) >= 0.6 * (12 - len(out))


def test_a_residual_that_overflowed_is_left_out_and_many_are_refused(tiny, monkeypatch):
    x = torch.ones(9, 32)
    x[4, 3], x[5] = float("nan"), float("inf")
    assert limit_of(x) == pytest.approx(10 * 32**0.5)
    assert usual(x, limit_of(x)).sum() == 7
    x[:6] = float("inf")
    with pytest.raises(DictionaryError, match="6 of the model's 9 residuals are not finite"):
        limit_of(x)

    bad = [False]

    def overflowing(w: Windows) -> torch.Tensor:
        return torch.full((*w.ids.shape, 32), float("nan") if bad[0] else 1.0)

    monkeypatch.setattr(tiny, "residual", overflowing)
    feed = Feed(tiny, text, context=32, rows=8, size=200, seed=0)
    assert len(feed.round()) == 200
    bad[0] = True
    with pytest.raises(DictionaryError, match=r"no residual to learn from.*bfloat16"):
        feed.round()


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"lr": -1e-3}, {"d_sae": 0}, {"buffer": 0}, {"measured": 0}, {"rows": 0}]
)
def test_a_number_that_no_training_can_have_is_refused_by_name(wrong, tiny, tmp_path):
    (name,) = wrong
    with pytest.raises(DictionaryError, match=rf"{name} is .* must be"):
        train(tiny, text, replace(PLAN, **wrong), tmp_path / "sae", ORIGIN)


def test_too_little_text_is_said(tiny, tmp_path):
    with pytest.raises(DictionaryError, match="too little to train on"):
        train(tiny, lambda: iter(["one document"]), PLAN, tmp_path / "sae", ORIGIN)
    with pytest.raises(DictionaryError, match="200 of 96 features"):
        train(tiny, text, replace(PLAN, k=200), tmp_path / "sae", ORIGIN)


@pytest.mark.parametrize("hook", [h for h in HOOKS if h != "resid_post"])
def test_every_site_can_be_trained_on(hook, model, tokenizer, tmp_path):
    subject = ModelSubject(model, tokenizer, Site(1, hook))
    plan = replace(PLAN, tokens=2_000, buffer=1_000, d_sae=None)
    train(subject, text, plan, tmp_path / "sae", ORIGIN)
    info = open_dictionary(tmp_path / "sae").info
    assert info.site == subject.site
    assert (info.d_in, info.d_sae) == (subject.d_in, 8 * subject.d_in)
    named = json.loads((tmp_path / "sae" / "cfg.json").read_text())["metadata"]["hook_name"]
    assert named == "blocks.1." + ("attn.hook_z" if hook == "hook_z" else f"hook_{hook}")


def test_the_command_trains_on_a_folder_and_serve_could_open_it(
    make_model, tokenizer, tmp_path, monkeypatch
):
    make_model("gpt2").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "t.txt").write_text("\n\n".join(corpus()))
    options = "--layer 2 --tokens 2000 --batch 128 --context 32 --k 4 --d-sae 64 --held-out 200"
    named = {"model": tmp_path / "model", "text": tmp_path / "t.txt", "out": tmp_path / "sae"}
    files = [part for name, path in named.items() for part in (f"--{name}", str(path))]
    ran = CliRunner().invoke(app, ["make", "train", *files, "--device", "cpu", *options.split()])
    assert ran.exit_code == 0, ran.output
    assert "loss recovered" in ran.output
    measured = json.loads((tmp_path / "sae" / "metrics.json").read_text())
    assert f"{measured['dead_in_training']} of 64 features dead in training" in ran.output
    assert f"{measured['dead']} features silent" in ran.output
    assert open_dictionary(tmp_path / "sae").info.site == Site(2, "resid_post")
    metrics = json.loads((tmp_path / "sae" / "metrics.json").read_text())
    nothing = json.dumps({**metrics, "loss_recovered": None})
    (tmp_path / "sae" / "metrics.json").write_text(nothing)
    ran = CliRunner().invoke(app, ["make", "train", *files, "--device", "cpu", *options.split()])
    assert "loss recovered n/a\n" in ran.output
    told = metrics["made"]
    assert (told["model"], told["field"]) == ("model", "text")
    assert told["model_revision"] == revision(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    other = model_facts(Loaded("model", tmp_path / "model", None, None))
    assert told["model"] == other["model"]
    assert told["model_revision"] != other["model_revision"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--layer", "9"], "layers 0 to"),
        (["--layer", "0", "--text", "gone.txt"], "give a file"),
        (["--layer", "0", "--hook", "nose"], "'nose' is not known"),
        (["--layer", "0", "--model", "no-such-model"], "no model folder here"),
        (["--layer", "0", "--context", "513"], "this model has 512 positions"),
    ],
)
def test_the_command_says_what_is_wrong_in_a_sentence(options, why, tmp_path):
    (tmp_path / "t.txt").write_text("one\n\ntwo")
    given = ["make", "train", "--out", str(tmp_path / "sae"), "--device", "cpu"]
    ran = CliRunner().invoke(app, [*given, "--text", str(tmp_path / "t.txt"), *options])
    assert ran.exit_code == 1
    assert why in ran.output


def test_the_folder_that_is_written_may_lie_in_the_text(
    make_model, tokenizer, tmp_path, monkeypatch
):
    """Its checkpoints come up while the text is read again and again; and it is finished after."""
    monkeypatch.setattr(train_run, "_CHECKPOINT", 0.0)
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "t.txt").write_text("\n\n".join(corpus(60)))
    options = "--layer 1 --tokens 4000 --batch 128 --context 32 --k 4 --d-sae 64 --buffer 1024"
    named = {"model": tmp_path / "model", "text": notes, "out": notes / "sae"}
    files = [part for name, path in named.items() for part in (f"--{name}", str(path))]
    command = ["make", "train", *files, "--device", "cpu", *options.split()]
    for _ in range(2):
        ran = CliRunner().invoke(app, command)
        assert ran.exit_code == 0, ran.output
    (notes / "more.txt").write_text("one more")
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 1
    assert "the text as it was then" in ran.output
