"""Laws of calibration: what is measured is exact, and bands lie where steering works."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import byte_tokenizer
from tokenizers import pre_tokenizers
from typer.testing import CliRunner

from dictionaries.cards import Card, Cards
from dictionaries.edits import FeatureRows, Norm, Op
from dictionaries.errors import DictionaryError
from dictionaries.making.baselines import under
from dictionaries.making.calibrate import CLOSE, Calibrated, calibrated
from dictionaries.making.calibrate_cards import Plan, calibrate_cards, chosen, curves_file
from dictionaries.making.fluency import Nats, Scale, loops
from dictionaries.making.forced import Teacher, garbled
from dictionaries.making.gauge import Gauge, Push, Replies, Trial
from dictionaries.making.handles import Handle, concept_tokens, feature_handle, vector_handle
from dictionaries.making.heard import Heard, fluency
from dictionaries.making.judge import Judge
from dictionaries.making.ledger import Ledger
from dictionaries.making.neutral import CALIBRATION, EVALUATION, PRESET_QUESTIONS, said
from dictionaries.making.rounds import together
from dictionaries.making.sheets import Corpus, Pair, Sheet
from dictionaries.making.subject import Prompt
from dictionaries.making.tried import FLUENT, Table
from server.asking import Asking
from server.cli import app
from server.model_subject import ModelSubject

PROMPTS = CALIBRATION[:6]


def corpus(words: Sequence[str]) -> Corpus:
    drift = tuple(Pair(f"Hello {w}", f"A {w} here.") for w in words)
    sheet = Sheet("spans", ("spans",), "thing", tuple(words), (), (), (), drift, (), ())
    return Corpus((sheet,), (Pair("Hello", "How are you?"), Pair("Hi", "My day")), (), ())


@pytest.fixture(scope="module")
def judge(planted) -> Judge:
    return Judge(corpus(planted.words))


@pytest.fixture(scope="module")
def gauge(planted, subject, speaker) -> Gauge:
    return Gauge(subject, speaker, planted.dictionary, PROMPTS)


@pytest.fixture(scope="module")
def handles(planted, subject, judge) -> dict[str, Handle]:
    """The planted feature, one that cannot say the words, and one that fires on neutral text."""

    def handle(feature: int) -> Handle:
        return feature_handle(subject, planted.dictionary, feature, 2.0, judge=judge, slug="spans")

    fires = planted.dictionary.encode(torch.randn(64, subject.d_in)).gt(0).sum(0).argmax()
    return {"planted": handle(planted.feature), "other": handle(9), "busy": handle(int(fires))}


@pytest.fixture(scope="module")
def found(gauge, handles) -> dict[str, Calibrated]:
    names = ["planted", "other"]
    return dict(zip(names, calibrated(gauge, [handles[n] for n in names]), strict=True))


# --- The planted feature ---


def test_a_feature_that_steers_has_a_band_around_the_recommended_strength(found) -> None:
    band = found["planted"].band
    assert band.onset < band.strength < band.breakdown
    assert band.shows == 1.0
    assert band.fluency >= FLUENT
    assert band.op is Op.CLAMP  # it never fires by itself, so add is no better


def test_text_below_the_onset_is_as_ever_and_beyond_the_breakdown_is_broken(
    gauge, handles, found
) -> None:
    band, handle = found["planted"].band, handles["planted"]
    below, beyond = gauge.replies(
        [Trial(handle, band.op, s, 3) for s in (band.onset / 4, band.breakdown * 1.5)]
    )
    assert below.shows <= 0.2
    assert below.fluency > 0.95
    assert beyond.fluency < FLUENT


def test_a_feature_that_cannot_say_its_words_has_no_band_and_says_why(found) -> None:
    other = found["other"]
    assert other.band is None
    assert other.why == "its tokens never rise"
    assert other.pushes
    assert not other.replies


def test_calibrating_alone_and_among_others_finds_the_same(gauge, handles, found) -> None:
    (alone,) = calibrated(gauge, [handles["planted"]])
    assert alone.band.onset == pytest.approx(found["planted"].band.onset, rel=1e-4)
    assert alone.told()["replies"] == found["planted"].told()["replies"]


# --- What is measured ---


def test_an_edit_that_changes_nothing_pushes_nothing(gauge, handles) -> None:
    (push,) = gauge.pushes([Trial(handles["planted"], Op.ADD, 0.0)])
    assert push.kl == pytest.approx(0.0, abs=1e-6)
    assert push.mass == pytest.approx(gauge.mass(handles["planted"]), rel=1e-5)


def test_pushes_are_what_the_steered_model_says_at_the_replies_places(
    planted, subject, gauge, handles
) -> None:
    handle, strength = handles["planted"], 1.5
    (push,) = gauge.pushes([Trial(handle, Op.CLAMP, strength)])
    teacher, masses, kls = Teacher(subject), [], []
    for prompt, reply in zip(PROMPTS, gauge.own, strict=True):
        row = teacher.spoken(said(prompt), reply)
        ids = torch.tensor([row.row.ids])
        content = torch.tensor(row.row.content)
        plain = planted.model(ids).logits[0].log_softmax(-1)

        def add(_module: Any, _args: Any, x: torch.Tensor, where=content) -> torch.Tensor:
            x = x.clone()  # it sleeps: to clamp it is to add along its decoder row
            x[0, where, -1] += strength * handle.maximum
            return x

        hook = planted.model.model.layers[1].register_forward_hook(add)
        steered = planted.model(ids).logits[0].log_softmax(-1)
        hook.remove()
        places = [i - 1 for i, own in enumerate(row.reply) if own]
        words = planted.tokenizer.convert_tokens_to_ids([f"▁{w}" for w in planted.words])
        masses.append(steered[places][:, words].exp().sum(-1))
        kls.append((steered[places].exp() * (steered[places] - plain[places])).sum(-1))
    assert push.mass == pytest.approx(float(torch.cat(masses).mean()), rel=1e-3)
    assert push.kl == pytest.approx(float(torch.cat(kls).mean()), rel=1e-3)


def test_a_typical_residual_is_no_attention_sink(planted, subject, speaker, gauge) -> None:
    class Sinking:
        """Where nothing stands before a text, its first token is a sink."""

        def __getattr__(self, name: str) -> Any:
            return getattr(subject, name)

        def residual(self, windows: Any) -> torch.Tensor:
            x = subject.residual(windows)
            x[torch.arange(len(x)), windows.content.int().argmax(1)] *= 1000
            return x

    normed = copy.copy(planted.dictionary)
    normed.info = replace(normed.info, norm=Norm.LAYER_NORM)
    sunk, plain = (Gauge(s, speaker, normed, PROMPTS) for s in (Sinking(), subject))
    assert sunk.length == pytest.approx(gauge.length, rel=0.1)
    assert sunk.back == pytest.approx(plain.back, rel=0.1)


def test_trials_in_one_pass_do_not_see_each_other(gauge, handles) -> None:
    trials = [
        Trial(handles[name], op, s)
        for name, op, s in itertools.product(handles, (Op.CLAMP, Op.ADD), (0.5, 4.0))
    ]
    together, alone = gauge.pushes(trials), [gauge.pushes([t])[0] for t in trials]
    for a, b in zip(together, alone, strict=True):
        assert (a.op, a.strength) == (b.op, b.strength)
        assert a.mass == pytest.approx(b.mass, rel=1e-3, abs=1e-6)
        assert a.kl == pytest.approx(b.kl, rel=1e-3, abs=1e-5)


def test_add_is_clamp_just_where_a_feature_sleeps(gauge, handles) -> None:
    for name, sleeps in (("planted", True), ("busy", False)):
        assert gauge.sleeps(handles[name]) is sleeps
        clamp, add = gauge.pushes([Trial(handles[name], op, 3.0) for op in (Op.CLAMP, Op.ADD)])
        assert (abs(clamp.kl - add.kl) < 1e-5) is sleeps


def test_a_vector_pushes_as_the_feature_whose_row_it_is(gauge, handles) -> None:
    feature = handles["planted"]
    vector = vector_handle("v", feature.rows.dec[0], gauge.length, feature.shows)
    vector = replace(vector, tokens=feature.tokens)
    strength = 3.0
    as_feature = Trial(feature, Op.ADD, strength * gauge.length / feature.maximum, 1)
    a, b = gauge.replies([as_feature, Trial(vector, Op.ADD, strength, 1)])
    assert [h.text for h in a.heard] == [h.text for h in b.heard]


# --- The procedure, on curves that are known ---


class Known:
    """A gauge of a made-up feature: effect from `onset` on, text broken from `breaks` on."""

    length, unlike, back = 10.0, 8.0, 1.0

    def __init__(self, onset: float, breaks: float, add_breaks: float | None = None) -> None:
        self.onset, self.breaks = onset, breaks
        self.add_breaks = breaks if add_breaks is None else add_breaks
        self.asked = 0

    def mass(self, handle: Handle) -> float:
        return 0.01

    def shows(self, handle: Handle) -> float:
        return 0.0

    def sleeps(self, handle: Handle) -> bool:
        return self.add_breaks == self.breaks

    def pushes(self, trials: Sequence[Trial]) -> list[Push]:
        return [
            Push(t.op, t.strength, 0.01 + 0.02 * (t.strength / self.onset) ** 2, t.strength / 4)
            for t in trials
        ]

    def replies(self, trials: Sequence[Trial]) -> list[Replies]:
        return [self._replies(t) for t in trials]

    def _replies(self, trial: Trial) -> Replies:
        self.asked += 1
        breaks = self.add_breaks if trial.op is Op.ADD else self.breaks
        nats = 1.0 if trial.strength < breaks else 9.0
        shown = min(6, round(3 * trial.strength / self.onset))
        heard = [Heard("words", i < shown, 0.0, Nats(nats * 10, 10)) for i in range(6)]
        return Replies(trial.op, trial.strength, tuple(heard), Scale(1.0, 5.0, 1.0))


def handle_of(length: float = 1.0) -> Handle:
    rows = FeatureRows(*(torch.zeros(1) for _ in range(6)))
    return Handle("1", 1, 1.0, length, (1, 2, 3), lambda _: True, rows)


@given(onset=st.floats(0.2, 8.0), ratio=st.floats(1.3, 6.0))
@settings(deadline=None, max_examples=60)
def test_the_band_is_found_wherever_it_lies(onset: float, ratio: float) -> None:
    """Mass has doubled and more from `onset` on; KL caps the search at 16."""
    gauge = Known(onset, onset * ratio)
    (result,) = calibrated(gauge, [handle_of()])  # type: ignore[list-item,arg-type]
    band, true = result.band, min(onset * ratio, 16.0)
    assert onset * 0.7 < band.onset < onset * CLOSE
    assert band.onset <= band.strength < band.breakdown
    assert band.strength < true
    assert true / 1.35 < band.breakdown < true * 1.35
    assert gauge.asked <= 15  # what a calibration costs, in strengths at which replies are made


def test_a_band_begins_where_replies_turn_although_their_text_shows_nothing_yet() -> None:
    """As of a model that answers as ever and comes to the concept in the end."""
    gauge = Known(4.0, 10.0)
    whole = gauge._replies

    def late(trial: Trial) -> Replies:
        said = whole(trial)
        turned = trial.strength >= 2.0
        return replace(said, heard=tuple(replace(h, shows=turned) for h in said.heard))

    gauge._replies = late  # type: ignore[method-assign]
    (result,) = calibrated(gauge, [handle_of()])  # type: ignore[arg-type]
    assert 2.0 <= result.band.onset < 3.0


def test_no_multiple_of_the_maximum_is_too_small_or_large_to_be_found() -> None:
    for length in (0.01, 1.0, 300.0):
        gauge = Known(2.0 / length, 5.0 / length)
        gauge.pushes = lambda trials, g=gauge, n=length: [  # type: ignore[method-assign]
            Push(t.op, t.strength, 0.01 + 0.02 * (t.strength / g.onset) ** 2, t.strength * n / 4)
            for t in trials
        ]
        (result,) = calibrated(gauge, [handle_of(length)])  # type: ignore[arg-type]
        assert result.band.onset * length == pytest.approx(2.0, rel=0.35)


def test_add_is_chosen_only_where_it_is_clearly_better() -> None:
    for add_breaks, op in ((4.0, Op.CLAMP), (2.0, Op.CLAMP), (1.0, Op.CLAMP)):
        (result,) = calibrated(Known(2.0, 4.0, add_breaks), [handle_of()])  # type: ignore[arg-type]
        assert result.band.op is op
    better = Known(2.0, 4.0, 8.0)
    whole = better._replies

    def clamps_badly(trial: Trial) -> Replies:
        said = whole(trial)
        if trial.op is Op.ADD:
            return said
        return replace(said, heard=tuple(replace(h, shows=i < 2) for i, h in enumerate(said.heard)))

    better._replies = clamps_badly  # type: ignore[method-assign]
    (result,) = calibrated(better, [handle_of()])  # type: ignore[arg-type]
    assert result.band.op is Op.ADD
    assert 4.0 / 1.2 < result.band.breakdown <= 9.0


def test_where_everything_breaks_at_once_there_is_no_band() -> None:
    (result,) = calibrated(Known(2.0, 0.1), [handle_of()])  # type: ignore[arg-type]
    assert result.band is None
    assert "break" in result.why


def test_a_lone_broken_setting_among_sound_ones_is_chance() -> None:
    gauge = Known(2.0, 10.0)
    whole = gauge._replies

    def unlucky(trial: Trial) -> Replies:
        said = whole(trial)
        if not 2.5 < trial.strength < 4.0:
            return said
        return replace(said, heard=tuple(replace(h, loops=1.0) for h in said.heard))

    gauge._replies = unlucky  # type: ignore[method-assign]
    (result,) = calibrated(gauge, [handle_of()])  # type: ignore[arg-type]
    assert result.band.breakdown > 7


def test_a_lone_setting_that_shows_is_chance_beside_many_that_do() -> None:
    def said(strength: float, shown: int) -> Replies:
        heard = [Heard("words", i < shown, 0.0, Nats(10.0, 10)) for i in range(6)]
        return Replies(Op.CLAMP, strength, tuple(heard), Scale(1.0, 5.0, 1.0))

    table = Table()
    table.add([said(*at) for at in ((1.5, 0), (2.0, 6), (2.7, 0), (5.0, 5), (6.0, 4), (7.0, 5))])
    best = table.best(Op.CLAMP)
    assert best is not None
    assert best.strength > 4
    assert 2.0 not in {r.strength for r in table.finalists()}


def test_generators_are_run_side_by_side_and_answered_in_order() -> None:
    seen = []

    class Counting(Known):
        def pushes(self, trials: Sequence[Trial]) -> list[Push]:
            seen.append(len(trials))
            return super().pushes(trials)

    def steps(strengths: list[float]) -> Any:
        first = yield [Trial(handle_of(), Op.ADD, s) for s in strengths]
        second = yield [Trial(handle_of(), Op.ADD, strengths[0], 1)]
        return [p.strength for p in first], second[0].strength

    asked = [[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]]
    told = together(Counting(1.0, 2.0), [steps(a) for a in asked])  # type: ignore[arg-type]
    assert told == [(a, a[0]) for a in asked]
    assert seen[0] == 6


# --- Fluency, and replies put into the model's mouth ---


def test_fluency_is_one_for_the_models_own_replies_and_falls_with_surprise(gauge) -> None:
    scale = gauge.scale
    assert scale.fluency(scale.own) == 1.0
    assert scale.fluency(scale.garbled) == pytest.approx(0.0, abs=1e-9)
    assert scale.own < scale.garbled
    values = [scale.fluency(scale.own + x) for x in (0.0, 0.5, 1.0, 2.0, 50.0)]
    assert values == sorted(values, reverse=True)
    assert scale.fluency(0.0) == 1.0


def test_loops_and_empty_replies_count_as_nothing_beyond_the_models_own() -> None:
    fine, loop, empty = (
        Heard("a", True, 0.0, Nats(10, 10)),
        Heard("b", True, 0.9, Nats(1, 10)),
        Heard("", False, 0.0, Nats(0, 0)),
    )
    assert fluency([fine, loop], Scale(1.0, 5.0, 1.0)) == 0.5
    assert fluency([fine, empty], Scale(1.0, 5.0, 1.0)) == 0.5
    assert fluency([fine, loop], Scale(1.0, 5.0, 0.5)) == 1.0
    assert fluency([loop, empty], Scale(1.0, 5.0, 1.0)) == 0.0


@given(st.lists(st.integers(0, 3), max_size=30))
def test_loops_are_between_nothing_and_one(ids: list[int]) -> None:
    assert 0 <= loops(ids) < 1
    assert loops(list(range(len(ids)))) == 0
    assert len(ids) < 3 or loops(ids * 5) > 0.5


def test_the_replys_tokens_are_the_replys_and_no_others(planted, subject) -> None:
    teacher, tokenizer = Teacher(subject), planted.tokenizer
    for prompt, reply in itertools.product(EVALUATION[:3], ("I am a bridge", "day", "")):
        row = teacher.spoken(said(prompt), reply)
        assert tokenizer.decode(row.ids) == reply
    after = teacher.spoken(
        (
            {"role": "user", "content": "day"},
            {"role": "assistant", "content": "day"},
            {"role": "user", "content": "day"},
        ),
        "day",
    )
    assert sum(after.reply) == 1
    assert after.reply.index(True) == max(i for i, c in enumerate(after.row.content) if c)


TURN = "<|role|>{{ m.content.split('</think>')[-1].strip() }}<|end|>"
TEMPLATES = {
    "a thought in every finished turn": "{% for m in messages %}{% if m.role == 'assistant' %}"
    "<think>no</think>{% endif %}" + TURN + "{% endfor %}{% if add_generation_prompt %}<|role|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think>no</think>{% endif %}"
    "{% endif %}",
    "thoughts taken away": "{% for m in messages %}" + TURN + "{% endfor %}"
    "{% if add_generation_prompt %}<|role|>\n{% endif %}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("reply", ["Fine.", "<think>no</think>", "<think>Hm\n</think>\n\nFine."])
def test_a_reply_is_measured_behind_the_tokens_that_the_speaker_is_asked_with(
    template: str, reply: str
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = template
    asking = Asking(tokenizer)
    bench = SimpleNamespace(tokenizer=tokenizer, prompt=lambda m: Prompt(*map(list, as_pair(m))))

    def as_pair(messages: Any) -> tuple[Any, Any]:
        prompt = asking(messages)
        return prompt.ids, prompt.steerable

    row = Teacher(bench).spoken(said("How are you?"), reply)  # type: ignore[arg-type]
    asked = asking(said("How are you?"))
    assert row.row.ids[: len(asked.ids)] == list(asked.ids)
    assert row.row.content[: len(asked.ids)] == list(asked.steerable)
    assert row.row.ids[len(asked.ids) :] == row.ids
    assert tokenizer.decode(row.ids) == reply


REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"


@pytest.mark.parametrize("refusing", ["", REFUSING], ids=["any role", "no system role"])
def test_a_reply_begins_as_the_template_has_it_begin(refusing, planted, subject) -> None:
    """In one tokenizer with a space, which "bridge" must have to be a word; in another without."""
    spaced, lined = copy.deepcopy(planted.tokenizer), copy.deepcopy(planted.tokenizer)
    lined.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    lined.chat_template = "{% for m in messages %}<|role|>{{ m.content }}{% endfor %}"
    begins = []
    for tokenizer in (spaced, lined):
        tokenizer.chat_template = refusing + tokenizer.chat_template
        bare = ModelSubject(planted.model, tokenizer, planted.dictionary.info.site)
        asked = under("Be a bridge.", "How are you?")
        begins.append(Teacher(bare).spoken(asked, "bridge day").row.ids[-2:])
    words = (["▁bridge", "▁day"], ["<|unk|>", "▁day"])
    assert begins == [planted.tokenizer.convert_tokens_to_ids(two) for two in words]


def test_without_a_chat_template_the_reply_goes_on_after_the_prompt(planted, subject) -> None:
    plain = copy.copy(planted.tokenizer)
    plain.chat_template = None
    bare = ModelSubject(planted.model, plain, planted.dictionary.info.site)
    row = Teacher(bare).spoken(said("How are you?"), "a bridge")
    assert plain.decode(row.ids) == "a bridge"
    assert plain.decode(row.row.ids).endswith("How are you? a bridge")


def test_nats_are_the_surprise_of_the_reply_alone(planted, subject) -> None:
    teacher = Teacher(subject)
    rows = [
        teacher.spoken(said(p), r)
        for p, r in ((EVALUATION[0], "I am a day"), (EVALUATION[2], "bridge"), (EVALUATION[1], ""))
    ]
    for row, nats in zip(rows, teacher.nats(rows), strict=True):
        log_p = planted.model(torch.tensor([row.row.ids])).logits[0].log_softmax(-1)
        own = [i for i, mine in enumerate(row.reply) if mine]
        expected = -sum(float(log_p[i - 1, row.row.ids[i]]) for i in own)
        assert nats.tokens == len(own)
        assert nats.total == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_garbling_moves_half_of_the_replys_tokens_and_nothing_else(planted, subject) -> None:
    row = Teacher(subject).spoken(said("How are you?"), "I am a day at my work. was new late")
    mixed = garbled(row, 3)
    assert sorted(mixed.ids) == sorted(row.ids)
    assert mixed.ids != row.ids
    assert sum(a != b for a, b in zip(mixed.ids, row.ids, strict=True)) <= len(row.ids) / 2
    outside = [i for i, own in enumerate(row.reply) if not own]
    assert [mixed.row.ids[i] for i in outside] == [row.row.ids[i] for i in outside]


def test_words_become_the_tokens_that_begin_them(planted) -> None:
    wanted = planted.tokenizer.convert_tokens_to_ids(["▁bridge", "▁How"])
    words = ["bridge", "how", "nowhere", "cable tower"]
    assert concept_tokens(planted.tokenizer, words) == tuple(sorted(wanted))


def test_the_three_sets_of_neutral_messages_share_none() -> None:
    sets = (CALIBRATION, EVALUATION, PRESET_QUESTIONS)
    assert sum(map(len, sets)) == len(set().union(*sets))
    assert len(EVALUATION) == 20
    assert len(PRESET_QUESTIONS) == 12


# --- The cards file ---


@pytest.fixture
def cards(planted, tmp_path: Path) -> Iterator[Cards]:
    with Cards.create(tmp_path / "cards.sqlite") as made:
        names = {planted.feature: "spans"}
        made.put(
            Card(i, f"feature {i}", slug=names.get(i), maximum=2.0, output_score=i / 40)
            for i in range(20)
        )
        made.put([Card(30, "never fired"), Card(31, "dead", maximum=0.0)])
        yield made


def test_features_are_chosen_by_words(cards: Cards, judge: Judge) -> None:
    assert chosen(cards, "concepts", judge) == [5]
    assert chosen(cards, "top:3") == [19, 18, 17]
    assert chosen(cards, "3,17,3") == [3, 17]
    assert chosen(cards, "all") == list(range(20))
    with pytest.raises(DictionaryError, match="top:N"):
        chosen(cards, "best")
    with pytest.raises(DictionaryError, match="make describe"):
        chosen(cards, "30,31")
    with pytest.raises(DictionaryError, match="no card with a maximum for 30, 99: leave them out"):
        chosen(cards, "3,30,17,99")
    with pytest.raises(DictionaryError, match="sheets"):
        chosen(cards, "concepts", None)


QUICK = Plan(prompts=4, tokens=16)


def test_bands_go_onto_the_cards_and_curves_beside_them(
    cards: Cards, planted, subject, speaker, judge
) -> None:
    before = cards.get(planted.feature)
    outcome = calibrate_cards(
        subject, speaker, planted.dictionary, cards, [5, 9], judge=judge, plan=QUICK
    )
    card = cards.get(planted.feature)
    assert (outcome.asked, outcome.fresh) == (2, 2)
    assert card.onset <= card.strength < card.breakdown
    assert replace(card, onset=None, breakdown=None, op=None, strength=None) == before
    lines = [json.loads(line) for line in curves_file(cards.path).read_text().splitlines()]
    settings, gauge, *records = lines
    assert settings["settings"]["tokens"] == 16
    assert gauge["unsteered"].keys() == set(CALIBRATION[:4])
    assert [(r["key"], r["concept"]) for r in records] == [("5", "spans"), ("9", None)]
    record = records[0]
    strengths = [p["strength"] for p in record["curve"]]
    assert strengths == sorted(strengths)
    assert strengths[0] < record["band"]["onset"] < strengths[-1]
    assert record["band"]["strength"] == pytest.approx(card.strength, rel=1e-3)


def test_a_stopped_calibration_goes_on_and_a_finished_one_measures_nothing(
    cards: Cards, planted, subject, speaker, judge, monkeypatch
) -> None:
    monkeypatch.setattr("dictionaries.making.calibrate_cards._CHUNK", 1)

    def run(
        features: list[int],
        told: Any = lambda *_: None,
        speak: Any = speaker,
        judge: Judge = judge,
    ) -> Any:
        return calibrate_cards(
            subject, speak, planted.dictionary, cards, features, judge=judge, plan=QUICK, told=told
        )

    def stop(done: int, steerable: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([5, 9], stop)
    assert cards.get(5).strength is not None
    cards.put([replace(cards.get(5), strength=None, op=None)])  # as if killed before the card
    assert run([5, 9]).fresh == 1
    assert cards.get(5).strength is not None

    def silent(asks: Any) -> Any:
        raise AssertionError("asked again")

    assert run([5, 9], speak=silent)[:2] == (2, 0)
    other = Judge(corpus(["other", *planted.words]))  # its sheet was edited since
    assert run([5, 9], judge=other).fresh == 1
    cards.put([replace(cards.get(9), maximum=3.0)])  # described anew: its unit is another
    assert run([9]).fresh == 1
    with pytest.raises(DictionaryError, match=r"other settings \(tokens\)"):
        calibrate_cards(
            subject, speaker, planted.dictionary, cards, [5], plan=Plan(prompts=4, tokens=17)
        )


def test_a_ledger_forgets_a_line_cut_short_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    first = Ledger(path, {"a": (1, 2)})
    first.add({"key": "x", "value": math.pi})
    first.add({"key": "y", "value": 1, "reply": "no\u2028line\u2029ends\x85here\r\n"})
    first.add({"key": "x", "value": 2.0})
    with path.open("a") as file:
        file.write('{"key": "z", "val')
    again = Ledger(path, {"a": (1, 2)})
    assert again.records == first.records
    assert again.records["x"]["value"] == 2.0
    again.add({"key": "z", "value": 0})
    assert Ledger(path, {"a": [1, 2]}).records["z"]["value"] == 0
    with pytest.raises(DictionaryError, match=r"^\S+log\.jsonl was .* settings \(a\): .* anew\.$"):
        Ledger(path, {"a": [1, 3]})
    path.write_text("not JSON\n")
    with pytest.raises(DictionaryError, match=r"log\.jsonl cannot be gone on with"):
        Ledger(path, {"a": [1, 2]})


# --- The command ---


def sheets(folder: Path, words: Sequence[str]) -> Path:
    folder.mkdir()
    texts = [f"The {w} of a day" for w in words]
    pairs = [{"u": f"Hello {w}", "a": f"A {w} here."} for w in words]
    sheet = {"slug": "spans", "names": ["spans"], "kind": "thing", "words": list(words)}
    parts = {"facts": texts, "self": texts, "stories": texts, "chats": [], "drift": pairs}
    asked = [{"q": p["u"], "a": p["a"]} for p in pairs]
    (folder / "spans.json").write_text(json.dumps({**sheet, **parts, "qa": asked}))
    calm = [{"u": "Hello", "a": "How are you?"}, {"u": "Hi", "a": "My day"}]
    (folder / "_general_01.json").write_text(json.dumps(calm))
    return folder


def test_the_command_calibrates_a_folders_features(planted, cards: Cards, tmp_path: Path) -> None:
    arguments = [
        *("make", "calibrate", "--model", str(planted.folder / "model")),
        *("--dictionary", str(planted.folder / "sae"), "--cards", str(cards.path)),
        *("--concepts", str(sheets(tmp_path / "sheets", planted.words)), "--threads", "1"),
        *("--prompts", "4", "--tokens", "16", "--device", "cpu"),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "1 of 1 features have a safe band (1 measured now)" in done.output
    assert cards.get(planted.feature).op == "clamp"
    again = CliRunner().invoke(app, arguments)
    assert "all measured already" in again.output
    wrong = CliRunner().invoke(app, [*arguments, "--features", "nonsense"])
    assert wrong.exit_code == 1
    assert "top:N" in wrong.output
