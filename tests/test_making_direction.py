"""`steerdeck make direction`: what it writes is the difference that it measured."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import cli_runner
import pytest
import torch
from torch.nn.functional import cosine_similarity
from typer.testing import CliRunner

from dictionaries.dictionary import Site
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
from dictionaries.making.neutral import CALIBRATION
from dictionaries.making.own_directions import Folder
from dictionaries.making.two_sets import Difference, Side, difference
from server.cli import app
from server.model_subject import ModelSubject

_clean = cli_runner._clean  # fixture
SITE = Site(1, "resid_post")
FAR = 8.0  # how far apart the twins are planted
WORDS = sorted({word for text in CALIBRATION for word in text.split()})


@pytest.fixture(scope="module")
def twins(planted) -> Any:
    """The planted model, in which "tower" is "bridge" but for the residual's last number."""
    model = copy.deepcopy(planted.model)
    tower, bridge = planted.tokenizer.convert_tokens_to_ids(["▁tower", "▁bridge"])
    embeddings = model.model.embed_tokens.weight
    embeddings[tower] = embeddings[bridge]
    embeddings[tower, -1] += FAR
    return ModelSubject(model, planted.tokenizer, SITE)


def texts(word: str, n: int = 20, seed: int = 0) -> list[str]:
    """Each has the word once among five others."""
    draw = random.Random(seed)
    return [" ".join([*draw.sample(WORDS, 3), word, *draw.sample(WORDS, 2)]) for _ in range(n)]


def by_hand(subject: Any, some: list[str]) -> torch.Tensor:
    """Residuals [tokens, d] of every token of the texts, which are all content."""
    found = []
    for text in some:
        ids = subject.tokenizer(text, return_tensors="pt")["input_ids"]
        states = subject._model(ids, output_hidden_states=True).hidden_states
        found.append(states[SITE.layer + 1][0])
    return torch.cat(found)


def test_it_finds_the_direction_that_was_planted(twins):
    found = difference(twins, texts("tower"), texts("bridge"), context=64, seed=0)
    planted = torch.eye(len(found.direction))[-1]
    assert found.direction[-1] == pytest.approx(FAR / 6, rel=1e-4), "its length is kept"
    assert cosine_similarity(found.direction, planted, dim=0) > 0.9
    assert found.more == found.less == Side(4, 4)


def test_it_is_the_difference_of_the_means_of_what_was_not_held_out(subject):
    more, less = texts("tower", 5), texts("cable", 9, seed=1)
    found = difference(subject, more, less, context=64, seed=3)
    assert (found.more.of, found.less.of) == (1, 1)
    wanted = [
        by_hand(subject, [t for t in more if t != out]).mean(0)
        - by_hand(subject, [t for t in less if t != other]).mean(0)
        for out in more
        for other in less
    ]
    apart = torch.stack([(one - found.direction).norm() for one in wanted])
    assert (apart < 1e-4).sum() == 1


def test_sets_that_differ_in_nothing_are_not_told_apart(subject):
    """Held out are texts of the same kind, so that a direction fitted to noise shows as such."""
    scores = [
        difference(subject, texts("cable", 40, i), texts("cable", 40, i + 50), context=64, seed=i)
        for i in range(12)
    ]
    assert sum(score.accuracy for score in scores) / len(scores) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(
    ("more", "less", "sentence"),
    [
        (texts("tower", 4), texts("cable"), "4 different texts came as --more: give 5 or more"),
        (texts("tower"), ["again"] * 9, "1 different texts came as --less"),
        (texts("tower"), texts("tower"), "the same mean"),
        ([" " * i for i in range(1, 9)], texts("cable"), "no token of these texts"),
    ],
)
def test_what_gives_no_direction_is_refused(more, less, sentence, subject):
    with pytest.raises(DictionaryError, match=sentence):
        difference(subject, more, less, context=64, seed=0)


def test_an_attention_sink_has_no_part_in_it(subject):
    class Sinking:
        """The first token of every text is a sink, and infinite in one."""

        def __getattr__(self, name: str) -> Any:
            return getattr(subject, name)

        def residual(self, windows: Any) -> torch.Tensor:
            x = subject.residual(windows)
            x[:, 0] *= 1000
            x[0, 0] = torch.inf
            return x

    found = difference(Sinking(), texts("tower"), texts("cable"), context=64, seed=0)
    assert 0 < found.residual < 20
    assert found.direction.norm() < 20


def made(planted, folder, name, *, more="tower", less="cable", out="own", **options):
    for word in (more, less):
        (folder / f"{word}.txt").write_text("\n\n".join(texts(word)) + "\n")
    said = {"model": planted.folder / "model", "layer": 1, "device": "cpu", **options}
    said |= {"more": folder / f"{more}.txt", "less": folder / f"{less}.txt"}
    said |= {"name": name, "out": folder / out}
    parts = [part for word, value in said.items() for part in (f"--{word}", str(value))]
    return CliRunner().invoke(app, ["make", "direction", *parts])


def test_the_command_writes_rows_that_open_and_tells_what_they_are(planted, subject, tmp_path):
    ran = made(planted, tmp_path, "Tall things")
    assert ran.exit_code == 0, ran.output
    assert "row 0, Tall things" in ran.output
    assert "4 of 4 that have it, 4 of 4 that do not (guessing: half)" in ran.output
    ran = made(planted, tmp_path, "short", more="cable", less="tower")
    assert "row 1, short" in ran.output
    assert "cosine with Tall things: -1.00" in ran.output
    opened = open_dictionary(tmp_path / "own")
    assert (opened.info.model, opened.info.site, opened.info.d_sae) == ("model", SITE, 2)
    wanted = difference(subject, texts("tower"), texts("cable"), context=256, seed=0)
    torch.testing.assert_close(opened.rows([0]).dec[0], wanted.direction)
    said = json.loads((tmp_path / "own" / "directions.json").read_text())["directions"]
    assert [one.get("slug") for one in said] == ["tall-things", "short"]
    assert said[0]["made"]["residual_length"] == pytest.approx(wanted.residual, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "Tall things"}, "has a direction called 'Tall things' already"),
        ({"name": "tall, things"}, "has a direction called 'tall, things' already"),
        ({"name": "  "}, "the name of a direction is empty"),
        ({"name": "b", "layer": 0}, "holds directions of site layer 1 resid_post, not layer 0"),
        ({"name": "b", "hook": "resid"}, "--hook resid: the hooks are resid_pre"),
        ({"name": "b", "layer": 9}, "layer 9 is not there"),
        ({"name": "b", "out": "tower.txt"}, "holds no directions.json: name another folder"),
        ({"name": "b", "context": 9999}, "this model has 512 positions"),
    ],
)
def test_a_row_that_does_not_belong_there_is_refused_and_changes_nothing(
    options, sentence, planted, tmp_path
):
    assert made(planted, tmp_path, "Tall things").exit_code == 0
    before = {file: file.read_bytes() for file in (tmp_path / "own").iterdir()}
    ran = made(planted, tmp_path, **options)
    assert (ran.exit_code, sentence in " ".join(ran.output.split())) == (1, True), ran.output
    assert {file: file.read_bytes() for file in (tmp_path / "own").iterdir()} == before


def test_directions_of_another_model_are_not_mixed(tmp_path):
    row = torch.ones(8)
    Folder(tmp_path / "own", SITE, {"model": "one"}).add("a", row, {})
    with pytest.raises(DictionaryError, match="directions of model one, not two"):
        Folder(tmp_path / "own", SITE, {"model": "two"})
    again = Folder(tmp_path / "own", SITE, {"model": "one"})
    with pytest.raises(DictionaryError, match="directions of 8 numbers, and one of 9 came"):
        again.add("b", torch.ones(9), {})
    assert again.add("c", -row, {}) == 1
    assert again.cosines(2 * row) == [("a", pytest.approx(1.0)), ("c", pytest.approx(-1.0))]


def test_accuracy_counts_both_sides_alike():
    found = Difference(torch.ones(2), 1.0, Side(4, 4), Side(0, 40))
    assert found.accuracy == 0.5
