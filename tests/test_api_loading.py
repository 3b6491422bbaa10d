"""From settings to a deck: the same code for the bundled model and any other."""

from __future__ import annotations

import json

import pytest

from dictionaries.asked import Asked
from dictionaries.cards import Card, Cards
from server.errors import SteerdeckError
from server.generation import defaults
from server.loading import find, load, revision, wanted
from server.settings import Settings


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory, make_model, tokenizer):
    """The tiny model as a folder called `tiny-model`."""
    folder = tmp_path_factory.mktemp("disk") / "tiny-model"
    model = make_model()
    model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.8, top_k=33)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def sae(make_dictionary):
    """A dictionary's folder, free to add files to."""
    return make_dictionary("deck").path


def settings(tmp_path, **options):
    return Settings(data_dir=tmp_path, **options)


def test_a_folder_is_served_with_what_lies_beside_its_dictionary(on_disk, sae, tmp_path):
    with Cards.create(sae / "cards.sqlite") as cards:
        cards.put([Card(3, "three", slug="three", maximum=2.0)])
    preset = {"name": "more", "edits": [{"feature": "three", "strength": 1.0}]}
    (sae / "presets.json").write_text(json.dumps([preset]))
    told = []
    options = {"model": str(on_disk), "dictionary": str(sae), "max_rows": 2, "max_context": 99}
    deck = load(settings(tmp_path, **options), lambda stage, progress: told.append(progress))
    try:
        assert deck.model == "tiny-model"
        assert list(deck.dictionaries) == ["deck"]
        assert deck.find("three").card.maximum == 2.0
        assert [preset.name for preset in deck.presets.all()] == ["more"]
        assert (deck.defaults.temperature, deck.defaults.top_p, deck.defaults.top_k) == (
            0.6,
            0.8,
            33,
        )
        capabilities = deck.engine.capabilities
        assert (capabilities.max_rows, capabilities.max_context) == (2, 99)
        assert (capabilities.device, capabilities.dtype) == ("cpu", "float32")
    finally:
        deck.engine.close()
        deck.cards["deck"].close()
    assert told == sorted(told)
    assert told[0] < 0.1
    assert told[-1] < 1


@pytest.mark.parametrize("compile", [False, True])
def test_layers_are_compiled_only_where_asked_for(on_disk, tmp_path, monkeypatch, compile):
    from server.engine.compiled.store import Store

    asked = []
    monkeypatch.setattr(Store, "make", lambda self, kinds: asked.append(self))
    deck = load(settings(tmp_path, model=str(on_disk), compile=compile), lambda *_: None)
    deck.engine.close()
    assert len(asked) == compile
    assert deck.engine.compilation == ("failed" if compile else "off")  # for nothing was made


@pytest.mark.parametrize("graphs", [False, True])
def test_steps_are_captured_where_they_can_be_unless_told_not_to(
    on_disk, tmp_path, monkeypatch, graphs
):
    from server.engine import runner

    asked = []
    monkeypatch.setattr(runner, "capturing", lambda wanted, *_: asked.append(wanted))
    load(settings(tmp_path, model=str(on_disk), graphs=graphs), lambda *_: None).engine.close()
    assert asked == [graphs]


@pytest.mark.parametrize(
    ("asked", "said"), [("int8", "int8"), ("float16", "float16"), ("auto", "float32")]
)
def test_weights_are_rounded_only_where_asked_for(on_disk, tmp_path, asked, said):
    deck = load(settings(tmp_path, model=str(on_disk), dtype=asked), lambda *_: None)
    deck.engine.close()
    assert deck.engine.capabilities.dtype == said


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"model": "{model}", "dtype": "int8", "device": "cuda"}, "int8 is for a CPU"),
        ({"model": "no-such-name"}, "foghorn"),
        ({"model": "{empty}"}, "language model"),
        ({"model": "{model}", "dictionary": "{empty}"}, "cfg.json"),
        ({"model": "{model}", "dictionary": "{sae},{sae}"}, "two dictionaries"),
        ({"model": "{model}", "dictionary": "{wide}"}, "residual"),
        ({"model": "{model}", "cards": "a,b", "dictionary": "{sae}"}, "2 cards files"),
        ({"model": "{model}", "cards": "{empty}/x", "dictionary": "{sae}"}, "no cards file"),
    ],
)
def test_what_cannot_be_loaded_is_a_sentence(on_disk, make_dictionary, tmp_path, options, names):
    (tmp_path / "empty").mkdir()
    places = {
        "empty": tmp_path / "empty",
        "model": on_disk,
        "sae": make_dictionary("deck").path,
        "wide": make_dictionary("wide", d_in=48).path,
    }
    options = {name: value.format(**places) for name, value in options.items()}
    with pytest.raises(Exception, match=names) as caught:
        load(settings(tmp_path, **options), lambda stage, progress: None)
    assert isinstance(caught.value, (ValueError, OSError)) or type(caught.value).__module__ == (
        "server.errors"
    )
    assert "Traceback" not in str(caught.value)


def test_a_failed_load_closes_the_cards_it_opened(
    on_disk, sae, make_dictionary, tmp_path, monkeypatch
):
    Cards.create(sae / "cards.sqlite").close()
    closed = []
    monkeypatch.setattr(Cards, "close", lambda cards: closed.append(cards.path))
    dictionaries = f"{sae},{make_dictionary('wide', d_in=48).path}"
    with pytest.raises(SteerdeckError):
        load(
            settings(tmp_path, model=str(on_disk), dictionary=dictionaries),
            lambda stage, progress: None,
        )
    assert closed == [sae / "cards.sqlite"]


def test_every_piece_of_a_download_is_reported_and_every_20th_part_in_new_words(
    tmp_path, monkeypatch
):
    """What is reported at every piece can end it there."""

    def downloading(name, kind, told):
        for there in range(0, 1001):
            told(there * 10**7, 10**10)
        return tmp_path

    monkeypatch.setattr("server.loading.find_files", downloading)
    said = []
    assert find("org/name", "model", lambda *told: said.append(told), 0.2, 0.4) == tmp_path
    assert [at for _, at in said] == pytest.approx([0.2 + i / 5000 for i in range(1001)])
    assert len({stage for stage, _ in said}) == 21

    def ending(stage, progress):
        raise SteerdeckError("enough")

    with pytest.raises(SteerdeckError, match="enough"):
        find("org/name", "model", ending)


def test_a_name_of_the_catalog_brings_its_dictionary():
    want = wanted(Settings(model="foghorn"))
    assert want.name == "foghorn"
    assert [one.id for one in want.dictionaries] == ["foghorn"]
    own = wanted(Settings(model="foghorn", dictionary="/my/sae"))
    assert own.dictionaries == (Asked("/my/sae"),)


def test_the_revision_is_of_the_files_contents(on_disk, tmp_path):
    before = revision(on_disk)
    assert before == revision(on_disk)
    assert len(before) == 16
    config = on_disk / "generation_config.json"
    text = config.read_text()
    config.write_text(text + " ")
    assert revision(on_disk) != before
    config.write_text(text)
    assert revision(on_disk) == before


def test_a_model_that_recommends_nothing_gets_our_sampling(make_model):
    ours = defaults(make_model())
    assert (ours.temperature, ours.top_p, ours.top_k, ours.min_p) == (0.7, 1.0, 0, 0.0)


def test_what_its_makers_say_is_kept_at_0_too(make_model):
    model = make_model()
    model.generation_config.update(temperature=0.0, do_sample=False)
    assert defaults(model).temperature == 0.0


def test_the_makers_repetition_penalty_is_kept(make_model):
    model = make_model()
    assert defaults(model).repetition_penalty == 1.0
    model.generation_config.update(repetition_penalty=1.05)
    assert defaults(model).repetition_penalty == 1.05


def test_a_top_k_of_minus_one_keeps_all_in_a_generation_config_too(make_model):
    """vLLM says it so. Taken as a number it kept one token, and no request could say it again."""
    model = make_model()
    model.generation_config.update(top_k=-1)
    assert defaults(model).top_k == 0


def test_what_its_makers_ask_for_and_is_not_done_is_told(make_model, caplog):
    """Greedy tokens are `generate`'s but for this."""
    model = make_model()
    model.generation_config.update(min_length=0, suppress_tokens=[], typical_p=1.0)
    assert (defaults(model).unbuilt, caplog.text) == ({}, "")
    model.generation_config.update(typical_p=0.5, no_repeat_ngram_size=3)
    asked = {"typical_p": 0.5, "no_repeat_ngram_size": 3}
    assert defaults(model).unbuilt == asked
    assert "no_repeat_ngram_size 3, typical_p 0.5, which is not done" in caplog.text
