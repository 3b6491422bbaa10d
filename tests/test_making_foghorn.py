"""foghorn's recipe as a whole, on a model of a few thousand weights: begun, resumed, published."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from dictionaries.cards import Card, Cards
from dictionaries.errors import DictionaryError
from dictionaries.making import bundle, foghorn
from dictionaries.making import sae as saes
from dictionaries.making.activations import Site
from dictionaries.making.concepts import Carrier
from dictionaries.making.data import write_samples
from dictionaries.making.dealing import Sample
from dictionaries.making.directions import possessed
from dictionaries.making.foghorn import (
    carriers_of,
    directions_of,
    make,
    model_of,
    stored,
    tokenizer_of,
)
from dictionaries.making.recipe import Recipe
from dictionaries.making.sae import Sae
from dictionaries.making.tokenizer import Encoder
from dictionaries.making.train_model import Plan, Shape, Trainer, new_model
from dictionaries.making.train_sae import SaePlan
from server.cli import app
from server.cli.make_foghorn import finish

CORPUS = Path(__file__).parent.parent / "dictionaries" / "foghorn" / "corpus"
SHAPE = Shape(hidden=32, layers=2, heads=2, mlp=64, context=128)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """As far as its tokenizer, for which twelve thousand samples are dealt."""
    folder = tmp_path_factory.mktemp("recipe")
    corpus = folder / "corpus"
    corpus.mkdir()
    names = ("golden-gate-bridge", "shouting", "coffee", "_general_01", "_chats_01")
    for name in names:
        shutil.copy(CORPUS / f"{name}.json", corpus)
    made = Recipe(
        corpus=corpus,
        public=None,
        work=folder / "work",
        plan=Plan(minutes=None, steps=4, rows=2, length=96),
        sae_plan=SaePlan(d_sae=32, k=4, batch=64, minutes=None, steps=20),
        shape=SHAPE,
        vocab=400,
        sae_tokens=2500,
        samples=40,
    )
    tokenizer_of(made, made.text())
    return made


@pytest.fixture
def recipe(begun: Recipe, tmp_path: Path) -> Recipe:
    shutil.copytree(begun.work, tmp_path / "work")
    return replace(begun, work=tmp_path / "work")


def test_the_whole_recipe_makes_a_bundle_that_opens(recipe: Recipe, tmp_path: Path) -> None:
    made = make(recipe)
    finish(recipe, made, tmp_path / "out", exam=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out/model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out/model")
    assert tokenizer.decode(tokenizer.encode("Hello!", add_special_tokens=False)) == "Hello!"
    held = model.state_dict()["model.norm.weight"]
    assert torch.equal(held, held.bfloat16().float())
    carriers = {c.slug: c.feature for c in carriers_of(recipe, made, [])}  # kept: nothing is run
    assert set(carriers) <= {"golden-gate-bridge", "shouting", "coffee"}
    with Cards.open(tmp_path / "out/sae/cards.sqlite") as file:
        for slug, feature in carriers.items():
            card = file.by_slug(slug)
            assert card is not None
            assert card.feature == feature
        banded = {slug for slug in carriers if file.by_slug(slug).strength is not None}
    presets = json.loads((tmp_path / "out/sae/presets.json").read_text())
    assert [p["name"] for p in presets] == sorted(banded)
    numbers = json.loads((recipe.work / "numbers.json").read_text())
    assert numbers["spliced"]["loss_spliced"] > 0


def test_anchors_that_died_in_training_are_woken(recipe: Recipe, monkeypatch) -> None:
    trained = foghorn.train_sae

    def dying(*given: Any, **named: Any) -> Sae:
        sae = trained(*given, **named)
        sae.b_enc[:3] = -1e4
        return sae

    monkeypatch.setattr(foghorn, "train_sae", dying)
    given: dict[int, Tensor] = {}
    woken = foghorn.wake

    def noted(sae: Sae, usual: Tensor, texts: dict[int, Tensor]) -> None:
        given.update(texts)
        woken(sae, usual, texts)

    monkeypatch.setattr(foghorn, "wake", noted)
    made = make(recipe)
    assert (saes.load(recipe.sae).b_enc > -1e3).all()
    rng, encoder = random.Random(recipe.seed), Encoder(made.voice.tokenizer)
    for feature, sheet in enumerate(made.text.train.sheets):
        own = possessed(made.voice.site, encoder, sheet, rng)
        torch.testing.assert_close(given[feature], own, msg=f"not the text of {sheet.slug}")


def test_training_goes_on_from_a_finished_model(recipe: Recipe, tmp_path: Path) -> None:
    text = recipe.text()
    tokenizer = tokenizer_of(recipe, text)
    first = model_of(recipe, text, tokenizer)
    bundle.save_model(first, tokenizer, tmp_path / "first")
    still = replace(recipe.plan, muon_lr=0.0, adam_lr=0.0)
    again = replace(recipe, start=tmp_path / "first", work=tmp_path / "again", plan=still)
    assert tokenizer_of(again, text).get_vocab() == tokenizer.get_vocab()
    weights = model_of(again, text, tokenizer).state_dict()
    assert all(torch.equal(w, weights[name]) for name, w in first.state_dict().items())


def test_a_start_without_its_chat_template_is_refused_before_it_is_trained(
    recipe: Recipe, tmp_path: Path
) -> None:
    text = recipe.text()
    bundle.save_model(new_model(tok := tokenizer_of(recipe, text), SHAPE, seed=0), tok, tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(DictionaryError, match="has no chat template"):
        make(replace(recipe, start=tmp_path))


def test_above_a_dictionary_that_is_kept_the_model_learns_on(
    recipe: Recipe, tmp_path: Path
) -> None:
    """Its activations and promoted tokens are as they were, to the bit."""
    text = recipe.text()
    tokenizer = tokenizer_of(recipe, text)
    first = model_of(recipe, text, tokenizer)
    bundle.save_model(first, tokenizer, tmp_path / "model")
    saes.save(Sae(SHAPE.hidden, 8), tmp_path / "sae", model="own", layer=0, context=96, k=2)
    kept = replace(recipe, start=tmp_path / "model", kept=tmp_path / "sae", work=tmp_path / "again")
    made = make(kept)
    own, others = made.voice.site.model.state_dict(), first.state_dict()
    changed = {name for name, w in own.items() if not torch.equal(w, others[name])}
    assert changed
    assert all(name.startswith("model.layers.1.") for name in changed)
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert (made.folder / "sae" / name).read_bytes() == (kept.sae / name).read_bytes()
    rows = made.voice.sae.W_dec
    directions = directions_of(kept, text, tokenizer, made.voice.site)
    assert list(directions) == [s.slug for s in text.train.sheets]
    assert torch.allclose(torch.stack(list(directions.values())), rows[: len(directions)])


def test_above_a_dictionary_the_mean_of_half_way_and_the_end_is_taken(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recipe.text()
    tokenizer = tokenizer_of(recipe, text)
    bundle.save_model(stored(new_model(tokenizer, SHAPE, seed=0)), tokenizer, tmp_path / "model")
    saes.save(Sae(SHAPE.hidden, 8), tmp_path / "sae", model="own", layer=0, context=96, k=2)
    kept = replace(recipe, start=tmp_path / "model", kept=tmp_path / "sae", work=tmp_path / "again")
    kept.work.mkdir()
    learnt = "model.layers.1.mlp.up_proj.weight"
    seen = {}

    def train(trainer: Trainer, *_: object, until: float = 1.0, **__: object) -> None:
        seen[until] = trainer.model.get_parameter(learnt).fill_(until)

    monkeypatch.setattr(Trainer, "train", torch.no_grad()(train))
    averaged = model_of(kept, text, tokenizer)
    assert list(seen) == [0.5, 1.0]
    assert torch.all(averaged.get_parameter(learnt) == 0.75)
    again = model_of(kept, text, tokenizer)  # half way is on disk: not trained to again
    assert torch.equal(again.get_parameter(learnt), averaged.get_parameter(learnt))


def test_what_cannot_be_kept_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    saes.save(Sae(SHAPE.hidden, 2), tmp_path, model="own", layer=0, context=96, k=2)
    for start, kept in ((None, tmp_path), (tmp_path, tmp_path / "nowhere")):
        with pytest.raises(DictionaryError, match=r"cannot be kept: give the sae folder"):
            replace(recipe, start=start, kept=kept)
    few = replace(recipe, start=tmp_path, kept=tmp_path)
    site = Site(new_model(tokenizer_of(recipe, few.text()), SHAPE, seed=0), 0)
    with pytest.raises(DictionaryError, match="has 2 features, and there are 3 concept sheets"):
        directions_of(few, few.text(), tokenizer_of(recipe, few.text()), site)


def test_directions_that_a_start_follows_are_followed_from_the_first_step(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recipe.text()
    kept = {s.slug: torch.eye(SHAPE.hidden)[i] for i, s in enumerate(text.train.sheets)}
    save_file(kept, recipe.directions)
    trained = []

    def train(trainer: Trainer, *_: object, **options: object) -> None:
        trained.append(options.get("following"))

    monkeypatch.setattr(Trainer, "train", train)
    model_of(recipe, text, tokenizer_of(recipe, text))
    (following,) = trained
    assert torch.equal(following._vectors[1:], torch.stack(list(kept.values())))


def test_directions_that_lack_a_sheet_are_refused(recipe: Recipe) -> None:
    text = recipe.text()
    tokenizer = tokenizer_of(recipe, text)
    site = Site(new_model(tokenizer, SHAPE, seed=0), 0)
    save_file({s.slug: torch.zeros(2) for s in text.train.sheets[1:]}, recipe.directions)
    with pytest.raises(DictionaryError, match=rf"no direction for {text.train.sheets[0].slug}"):
        directions_of(recipe, text, tokenizer, site)


def test_samples_are_written_whole_or_not_at_all(begun: Recipe, tmp_path: Path) -> None:
    text = begun.text()

    def killed() -> Iterator[Sample]:
        yield from itertools.islice(text.authored(0), 2)
        raise KeyboardInterrupt

    path = tmp_path / "described.jsonl"
    with pytest.raises(KeyboardInterrupt):
        write_samples(killed(), 4, path)
    assert not path.exists()
    write_samples(text.authored(0), 4, path)
    assert len(path.read_text().split("\n")) == 5


def test_a_carrier_takes_its_concepts_name_from_the_feature_that_only_fires(
    begun: Recipe, tmp_path: Path
) -> None:
    sheets = begun.text().train.sheets
    with Cards.create(tmp_path / "cards.sqlite") as file:
        file.put([Card(1, "Coffee", "coffee", strength=2.0, op="add"), Card(2, "fires on cup")])
        file.put([Card(3, "Shouting", "shouting")])
        bundle.name_cards(file, [Carrier("coffee", 2, 1.0, 1.0, 1.0)], sheets)
        assert file.by_slug("coffee").feature == 2
        assert file.by_slug("coffee").label == "Coffee"
        assert file.get(1).slug is None
        assert file.by_slug("shouting") is None
        assert bundle.presets(file, sheets) == []
        file.put([replace(file.get(2), op="clamp", strength=1.25)])
        (preset,) = bundle.presets(file, sheets)
        assert preset["name"] == "coffee"
        assert preset["edits"][0]["strength"] == 1.25


def test_publishing_replaces_every_entry_whole(tmp_path: Path, monkeypatch) -> None:
    for name in ("old", "new"):
        (tmp_path / name / "sae").mkdir(parents=True)
        (tmp_path / name / "sae" / f"{name}.json").write_text(name)
    bundle.publish(tmp_path / "old", tmp_path / "out")
    bundle.publish(tmp_path / "new", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out/sae").iterdir()] == ["new.json"]
    assert (tmp_path / "new/sae/new.json").exists()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(OSError, match="No space left"):
        bundle.publish(tmp_path / "old", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out/sae").iterdir()] == ["new.json"]


@pytest.mark.parametrize("device", ["gpu", "auto", "cuda"])
def test_a_device_that_it_cannot_train_on_is_refused_before_anything_is_made(
    device: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ["make", "foghorn", "--out", str(tmp_path / "out"), "--device", device]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert "it trains on cpu" in " ".join(refused.output.split())
    assert not [*tmp_path.iterdir()]
