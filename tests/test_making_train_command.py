"""`steerdeck make train`: the command, any site, and what no training can have."""

from __future__ import annotations

import json
from dataclasses import replace

import making_trained
import pytest
from making_trained import ORIGIN, PLAN, corpus, text
from typer.testing import CliRunner

from dictionaries.dictionary import HOOKS, Site
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
from dictionaries.making import train_run
from dictionaries.making.train import train
from server.cli import app
from server.cli.make_options import model_facts
from server.loading import revision
from server.model_subject import ModelSubject
from server.subject import Loaded

model, tiny = making_trained.model, making_trained.tiny  # fixtures


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
