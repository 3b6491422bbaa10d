"""Vectors that come with a request, in the engine: what adding one does, and who shares nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import runner_passes
import torch
from runner_passes import PROMPT, decode, prefill, runner
from sent_vectors import CALM, STORM, edit, vector
from test_directions import written
from torch import Tensor

from dictionaries.formats import open_dictionary
from server.engine.conditions import Condition, Crossing, Thinking, Timing
from server.engine.guard import Guard, Mode
from server.engine.types import Steering
from server.errors import Unsteerable

some = runner_passes.some  # fixture


def under(made, *edits, keep_norm=False, cut=7) -> tuple[Tensor, Tensor]:
    """Logits after the prompt and after one token more, in row 0."""
    made.steerer.write(0, made.steerer.prepare(Steering(edits, keep_norm)), len(PROMPT))
    return prefill(made, 0, cut=cut), decode(made, [5], len(PROMPT))[0]


@pytest.mark.parametrize("keep_norm", [False, True])
@pytest.mark.parametrize(
    ("layer", "hook"), [(0, "resid_pre"), (2, "resid_pre"), (0, "resid_post"), (2, "resid_post")]
)
def test_adding_a_vector_is_a_hooked_forward_that_adds_it(layer, hook, keep_norm, make_model):
    """At any layer, where the server has no dictionary."""
    found = under(runner(make_model()), edit(vector(CALM, layer, hook)), keep_norm=keep_norm)
    model = make_model()
    at = model.model.layers[layer]

    def moved(x: Tensor) -> Tensor:
        y = x + 2.5 * CALM
        return y * x.norm(dim=-1, keepdim=True) / y.norm(dim=-1, keepdim=True) if keep_norm else y

    if hook == "resid_pre":
        at.register_forward_pre_hook(lambda _module, args: (moved(args[0]), *args[1:]))
    else:
        at.register_forward_hook(lambda _module, _args, out: moved(out))
    expected = model(torch.tensor([[*PROMPT, 5]]), use_cache=False).logits[0, -2:]
    plain = make_model()(torch.tensor([[*PROMPT, 5]]), use_cache=False).logits[0, -2:]
    torch.testing.assert_close(torch.stack(found), expected, atol=1e-4, rtol=1e-4)
    assert (expected - plain).abs().max() > 0.1


WAYS = [
    *((where, Timing()) for where in ("all", "prompt", "generated")),
    ("all", Timing(first=1, last=3)),
    ("all", Timing(half_life=2.0)),
    ("all", Timing(Condition("tiny", 3, Crossing.ABOVE, 0.0))),
    ("generated", Timing(thinking=Thinking.AFTER)),
]


@pytest.mark.parametrize(("where", "timing"), WAYS)
@pytest.mark.parametrize("hook", ["resid_pre", "resid_post"])
def test_it_is_to_the_bit_what_a_loaded_direction_is(
    hook, where, timing, make_model, dictionary, steer, tmp_path
):
    """Beside an edit of another dictionary, which sits where layer 2 begins."""
    rows = torch.stack([STORM, CALM])
    own = open_dictionary(written(tmp_path / "own", rows, site={"layer": 2, "hook": hook}))
    [loaded] = steer((1, "add", 2.5, where, "own")).edits
    beside = steer((9, "clamp", 3.0)).edits
    expected = under(runner(make_model(), dictionary, own), *beside, replace(loaded, timing=timing))
    brought = edit(vector(CALM, 2, hook), where=where, timing=timing)
    found = under(runner(make_model(), dictionary), *beside, brought)
    assert all(map(torch.equal, found, expected))
    if timing == Timing():
        assert not all(map(torch.equal, found, under(runner(make_model(), dictionary), *beside)))


def test_rows_without_it_keep_their_bits_and_no_row_keeps_it(make_model, dictionary, some, device):
    """One step, the same rows: a vector comes to a place where none was, and goes again."""
    made = runner(make_model("gemma2").to(device), dictionary)
    made.steerer.write(1, made.steerer.prepare(some))
    for row in range(3):
        prefill(made, row)
    before = decode(made, [5, 6, 7], len(PROMPT))
    made.steerer.write(0, made.steerer.prepare(Steering((edit(vector(CALM, 2), 1e6),))))
    during = decode(made, [5, 6, 7], len(PROMPT))
    assert torch.equal(during[1:], before[1:])
    assert not torch.equal(during[0], before[0])
    made.steerer.write(0, None)
    assert torch.equal(decode(made, [5, 6, 7], len(PROMPT)), before)
    for mount in made.steerer._mounts.values():
        assert not mount.table.dec[0].any()


def test_it_goes_with_its_row(make_model):
    made, still = runner(make_model()), runner(make_model())
    prepared = [one.steerer.prepare(Steering((edit(vector(CALM)),))) for one in (made, still)]
    for one, row, its in ((made, 2, prepared[0]), (still, 0, prepared[1])):
        one.steerer.write(row, its)
        prefill(one, row)
    made.move(2, 0, len(PROMPT))
    assert torch.equal(decode(made, [5], len(PROMPT)), decode(still, [5], len(PROMPT)))


def test_the_input_of_the_first_layer_is_moved_before_its_middle_is_read(
    make_model, make_dictionary, steer
):
    """Also where the hook at resid_mid was there first."""
    middle = make_dictionary("middle", layer=0, hook="resid_mid")
    seen = steer((3, "clamp", 6.0, "all", "middle")).edits
    late = runner(make_model(), middle)
    found = under(late, *seen, edit(vector(CALM, 0, "resid_pre")))
    model = make_model()
    model.model.embed_tokens.register_forward_hook(lambda _module, _args, out: out + 2.5 * CALM)
    expected = under(runner(model, middle), *seen)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("other", "cached"),
    [
        (vector(CALM), True),
        (vector(CALM, name="by another name"), True),
        (vector(STORM), False),
        (vector(CALM, 2), False),
        (vector(CALM, 2, "resid_pre"), True),  # the same place
        (None, False),
    ],
)
async def test_a_prefix_is_shared_by_what_a_vector_holds_and_where(
    other, cached, make_engine, hear, ask
):
    engine = make_engine(prefix_cache=2**22)
    text = "The bridge is long and red, and fog lies on the bay below it in the morning."
    first = Steering((edit(vector(CALM)),))
    second = Steering(() if other is None else (edit(other),))
    await hear(engine, ask(text, steering=first))
    [warm] = await hear(engine, ask(text, steering=second))
    [cold] = await hear(make_engine(), ask(text, steering=second))
    assert warm.ids == cold.ids
    assert (warm.end.cached_tokens > 32) is cached


async def test_two_requests_vectors_of_one_name_are_two(make_engine, hear, ask):
    engine = make_engine()
    ways = [Steering((edit(vector(one), 4.0),)) for one in (CALM, STORM)]
    both = await hear(engine, *(ask(steering=way) for way in ways))
    alone = [(await hear(make_engine(), ask(steering=way)))[0].ids for way in ways]
    assert [heard.ids for heard in both] == alone
    assert alone[0] != alone[1]


async def test_live_changes_bring_and_take_a_vector(make_engine, hear, ask):
    engine = make_engine()
    changes = [Steering((edit(vector(one, 2), 4.0),)) for one in (CALM, STORM)]
    stream = engine.submit(ask(max_tokens=200))
    heard = [await anext(stream)]
    at = [engine.steer(stream.id, change) for change in changes]
    async for event in stream:
        heard.append(event)
    told = heard[-1].timeline
    assert [change.steering for change in told if change.at in at][-1:] == changes[-1:]
    [again] = await hear(engine, ask(max_tokens=200, changes=told[1:]))
    assert again.ids == [token.id for event in heard[:-1] for token in event.tokens]


async def test_a_guard_takes_a_vector_back_step_by_step_and_its_replay_does_too(
    make_engine, hear, ask
):
    loud = Steering((edit(vector(CALM), 40.0), edit(vector(STORM, name="storm"), 2.0)))
    guard = Guard(Mode.BACK_OFF, low=None, window=6, factor=0.5)
    [heard] = await hear(make_engine(), replace(ask(steering=loud, max_tokens=40), guard=guard))
    first, second, *_ = changes = heard.end.timeline[1:]
    assert [one.strength for one in first.steering.edits] == [20.0, 1.0]
    assert [one.strength for one in second.steering.edits] == [10.0, 0.5]
    replay = ask(steering=loud, changes=changes, max_tokens=len(heard.ids))
    assert (await hear(make_engine(), replay))[0].ids == heard.ids


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        (vector(CALM, 3), "layers 0 to 2"),
        (vector(CALM[:8]), "vectors of 8 numbers, but the model's"),
        (vector(CALM, 1, "attn_out"), "added at resid_pre or resid_post"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(own, sentence, make_model):
    made = runner(make_model())
    with pytest.raises(Unsteerable, match=sentence):
        made.steerer.prepare(Steering((edit(own),)))


def test_what_would_read_it_is_refused(make_model, steer):
    made = runner(make_model())
    [clamp] = steer((0, "clamp", 1.0)).edits
    own = replace(clamp, vector=vector(CALM), dictionary="/layer 1 resid_post")
    with pytest.raises(Unsteerable, match="'clamp' needs the activation of vector:calm"):
        made.steerer.prepare(Steering((own,)))
    twice = Steering((edit(vector(CALM)), edit(vector(CALM))))
    with pytest.raises(Unsteerable, match="vector:calm is edited twice"):
        made.steerer.prepare(twice)


def test_no_steering_with_a_vector_is_remembered(make_model, steer):
    steerer = runner(make_model()).steerer
    with_one = Steering((edit(vector(CALM)),))
    assert steerer.prepare(with_one) is not steerer.prepare(with_one)
    assert steerer.prepare(Steering()) is steerer.prepare(Steering())


def test_a_model_without_such_a_stream_runs_and_takes_no_vector(make_engine, monkeypatch):
    def refuses(*_):
        raise Unsteerable("none that a dictionary can be read from")

    monkeypatch.setattr("server.engine.vector_mounts.prove", refuses)
    engine = make_engine()
    assert engine.capabilities.no_vectors == "none that a dictionary can be read from"
    with pytest.raises(Unsteerable, match="none that a dictionary"):
        engine._runner.steerer.prepare(Steering((edit(vector(CALM)),)))


def test_a_device_without_memory_for_one_more_place_refuses(make_model, monkeypatch):
    made = runner(make_model())
    known = made.steerer.prepare(Steering((edit(vector(CALM)),)))

    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("server.engine.vector_mounts.VectorMount", full)
    with pytest.raises(Unsteerable, match="no memory left for vectors at layer 2 resid_post"):
        made.steerer.prepare(Steering((edit(vector(CALM, 2)),)))
    assert made.steerer.prepare(known.steering).steering == known.steering
