"""`steerdeck make describe` as a whole: any family, text with nothing in it, and the command."""

from __future__ import annotations

from dataclasses import replace

import making_described
import pytest
import torch
from making_described import FACTS, PLAN, cards_in, corpus, run, text
from typer.testing import CliRunner

from dictionaries.errors import DictionaryError
from dictionaries.making.describe_all import Reading, describe
from server.cli import app
from server.model_subject import ModelSubject

sae, model = making_described.sae, making_described.model  # fixtures
subject, reading = making_described.subject, making_described.reading  # fixtures
many_blocks = making_described.many_blocks  # fixture: every test has it, unasked


def test_a_text_on_which_nothing_fires_is_refused(reading, tmp_path):
    with pytest.raises(DictionaryError, match="no feature fired on the 0 content tokens"):
        describe(reading, lambda: iter(()), tmp_path / "cards.sqlite", facts=FACTS)
    for wrong in ({"tokens": 0}, {"prompts": ()}, {"context": 1}):
        with pytest.raises(DictionaryError, match="at least"):
            replace(PLAN, **wrong)


@pytest.mark.parametrize(("family", "architecture"), [("gpt2", "topk"), ("gemma2", "standard")])
def test_any_family_and_architecture_can_be_described(
    family, architecture, make_model, make_dictionary, tokenizer, tmp_path
):
    sae = make_dictionary("other", architecture=architecture, hook="mlp_out")
    subject = ModelSubject(make_model(family), tokenizer, sae.info.site, sae)
    reading = Reading(subject, sae, replace(PLAN, tokens=200))
    out = tmp_path / "cards.sqlite"
    described = run(reading, out)
    assert 200 <= described.tokens < 400
    batches = [b for b, _ in zip(text(tokenizer), range(20), strict=False)]
    f = torch.cat([sae.encode(subject.residual(b)[b.content]) for b in batches])
    f = f[: described.tokens]
    cards = cards_in(out)
    assert sorted(cards) == f.any(0).nonzero()[:, 0].tolist()
    for i, card in cards.items():
        assert card.maximum == pytest.approx(float(f[:, i].max()), rel=1e-5)


def test_the_command_writes_cards_that_open_and_says_when_it_has(model, tokenizer, sae, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "notes.txt").write_text("\n\n".join(d for d in corpus(20) if isinstance(d, str)))
    out = tmp_path / "cards.sqlite"
    command = [
        "make",
        "describe",
        "-m",
        str(tmp_path / "model"),
        "-d",
        str(sae.path),
        "-o",
        str(out),
    ]
    command += ["-t", str(tmp_path / "notes.txt"), "--tokens", "300", "--device", "cpu"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    cards = cards_in(out)
    assert f"{len(cards)} cards, of" in first.output
    assert "written to" in first.output
    assert all(card.label and card.output_score is not None for card in cards.values())
    assert "were all there already" in CliRunner().invoke(app, command).output
    refused = CliRunner().invoke(app, [*command, "--seed", "3"])
    assert refused.exit_code == 1
    assert "move it away" in refused.output
    with (tmp_path / "notes.txt").open("a") as notes:
        notes.write("\n\none paragraph more")
    changed = CliRunner().invoke(app, command)
    assert changed.exit_code == 1
    assert "was made from other text" in changed.output
    long = CliRunner().invoke(app, [*command, "--context", "513"])
    assert long.exit_code == 1
    assert "this model has 512 positions" in long.output


def test_the_cards_may_be_written_into_the_folder_of_the_text(model, tokenizer, sae, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text("\n\n".join(d for d in corpus(20) if isinstance(d, str)))
    named = {"-m": tmp_path / "model", "-d": sae.path, "-t": notes, "-o": notes / "cards.sqlite"}
    options = [part for name, path in named.items() for part in (name, str(path))]
    command = ["make", "describe", *options, "--device", "cpu"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    (notes / "cards.calibration.jsonl").write_text('{"key": "of make calibrate"}')
    assert "were all there already" in CliRunner().invoke(app, command).output
