"""Tracing: what each edit saw and left, without changing a bit."""

from __future__ import annotations

import pytest
import runner_passes
import torch
from runner_passes import PROMPT, decode, prefill, runner
from torch import Tensor

from server.engine.batch import Batch, Span
from server.engine.tables import Phase
from server.engine.types import Where

some = runner_passes.some  # fixture


@pytest.mark.parametrize("architecture", ["jumprelu", "topk"])
def test_readings_are_the_activations_before_and_after(
    architecture, make_model, make_dictionary, steer
) -> None:
    dictionary = make_dictionary(architecture=architecture)
    steering = steer(
        (3, "clamp", 4.0), (8, "add", 1.0), (9, "scale", 2.0, "prompt"), (5, "at_most", 0.2)
    )
    model = make_model()
    made = runner(model, dictionary)
    seen: list[Tensor] = []
    model.model.layers[1].register_forward_hook(lambda *a: seen.append(a[2].clone()), prepend=True)
    made.steerer.write(1, made.steerer.prepare(steering))
    span = Span(1, 0, PROMPT, (True,) * len(PROMPT), True)
    for phase in Phase:
        if phase is Phase.PROMPT:
            made.forward(Batch(0, [], [], [], (span,), traced=True))
        else:
            made.forward(Batch(0, [4, 5], [0, len(PROMPT)], [True] * 2, (), traced=True))
        x = seen.pop()[0, -1] if phase is Phase.PROMPT else seen.pop()[0, 1]
        f = dictionary.encode(x)
        readings = made.steerer.readings(1)
        assert [r.feature for r in readings] == [3, 8, 9, 5]
        for edit, reading in zip(steering.edits, readings, strict=True):
            before = f[edit.feature].item()
            acts = edit.where is Where.ALL or phase is Phase.PROMPT
            scale, shift, floor, ceiling = edit.edit
            after = min(max(scale * before + shift, floor), ceiling) if acts else before
            assert reading.before == pytest.approx(before, abs=1e-5)
            assert reading.after == pytest.approx(after, abs=1e-5)
        assert made.steerer.readings(0) == ()


def test_tracing_changes_no_bit(make_model, make_dictionary, some, steer) -> None:
    adding = steer(*((feature, "add", 2.0) for feature in range(64)))
    for architecture, steering in (("topk", adding), ("jumprelu", some)):
        dictionary = make_dictionary(architecture=architecture)
        outputs = []
        for traced in (False, True):
            made = runner(make_model(), dictionary, max_edits=64)
            made.steerer.write(0, made.steerer.prepare(steering))
            prefill(made, 0)
            outputs.append(decode(made, [5], len(PROMPT), traced=traced))
        assert torch.equal(*outputs)
        assert any(reading.before > 0 for reading in made.steerer.readings(0))


def test_a_token_that_may_not_be_touched_reads_the_same_before_and_after(
    make_model, dictionary, some
) -> None:
    made = runner(make_model(), dictionary)
    made.steerer.write(0, made.steerer.prepare(some))
    prefill(made, 0)
    made.forward(Batch(0, [5], [len(PROMPT)], [False], (), traced=True))
    readings = made.steerer.readings(0)
    assert len(readings) == 4
    assert all(reading.after == reading.before for reading in readings)


async def test_traced_tokens_carry_what_each_edit_saw(make_engine, ask, hear, steer) -> None:
    steering = steer((3, "clamp", 6.0), (9, "add", 1.0, "generated"))
    traced, plain = await hear(
        make_engine(), ask(steering=steering, trace=True), ask(steering=steering)
    )
    assert traced.ids == plain.ids
    assert not any(token.readings for token in plain.tokens)
    for i, token in enumerate(traced.tokens):
        clamp, add = token.readings
        assert (clamp.dictionary, clamp.feature, clamp.after) == ("tiny", 3, 6.0)
        assert add.after == pytest.approx(add.before + (1.0 if i else 0.0), abs=1e-5)
