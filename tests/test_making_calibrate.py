"""Laws of calibration on the planted feature: what is measured is exact, and its band is safe."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import Any

import planted_judge
import pytest
import torch

from dictionaries.edits import Norm, Op
from dictionaries.errors import DictionaryError
from dictionaries.making.calibrate import Calibrated, calibrated
from dictionaries.making.forced import Teacher
from dictionaries.making.gauge import Gauge, Trial
from dictionaries.making.handles import Handle, feature_handle, vector_handle
from dictionaries.making.neutral import CALIBRATION, said
from dictionaries.making.tried import FLUENT, TURNED

judge = planted_judge.judge  # fixture

PROMPTS = CALIBRATION[:6]


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
    assert max(r.shows for r in other.replies) < TURNED


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


def test_fluency_is_one_for_the_models_own_replies_and_falls_with_surprise(gauge) -> None:
    scale = gauge.scale
    assert scale.fluency(scale.own) == 1.0
    assert scale.fluency(scale.garbled) == pytest.approx(0.0, abs=1e-9)
    assert scale.own < scale.garbled
    values = [scale.fluency(scale.own + x) for x in (0.0, 0.5, 1.0, 2.0, 50.0)]
    assert values == sorted(values, reverse=True)
    assert scale.fluency(0.0) == 1.0


def test_a_model_that_says_nothing_is_refused_with_a_sentence(planted, subject) -> None:
    with pytest.raises(DictionaryError, match="the 6 neutral messages with nothing"):
        Gauge(subject, lambda asks: [""] * len(asks), planted.dictionary, PROMPTS)
