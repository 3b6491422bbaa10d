"""Decode steps that are captured give what steps give that are not: see `recorded.py`.

What a capture itself may get wrong is tested on a GPU as well, where there is one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import runner_passes
import torch
from recorded import Recorded
from runner_passes import PROMPT, prefill, runner
from sent_vectors import CALM, edit, vector
from tiny import tiny_model
from torch import Tensor

from server.engine import mount
from server.engine.batch import Batch
from server.engine.gpu import graphs as graphing
from server.engine.gpu.capture import CudaCapture
from server.engine.native import layers
from server.engine.types import Change, Steering

some = runner_passes.some


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that replies of a test pass some bounds of the number of keys; and of operators there are
    torch's alone, which a recording knows.
    """
    monkeypatch.setattr(graphing, "_SHORTEST", 8)
    for module in (layers, mount):
        monkeypatch.setattr(module, "able", lambda: False)


def step(rows: int, at: int, flag: bool = True, **more: Any) -> Batch:
    positions = [at - (row % 2) for row in range(rows)]
    flags = [flag or row == 0 for row in range(rows)]
    return Batch(0, [(5 * at + row) % 200 for row in range(rows)], positions, flags, (), **more)


class Counted(Recorded):
    """Captures on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self._capture = CudaCapture(torch.device("cuda"))

    def __call__(self, run: Any) -> Any:
        self.captures += 1
        replay = self._capture(run)

        def counted() -> None:
            self.replays += 1
            replay()

        return counted


def pair(dictionary: Any, family: str = "llama", device: str = "cpu") -> tuple[Any, Any, Recorded]:
    """A runner that captures, one that does not, and what captures."""
    recorded = Recorded() if device == "cpu" else Counted()
    models = [tiny_model(family).to(device) for _ in range(2)]
    made = runner(models[0], dictionary, threads=1, graphs=recorded)
    assert made._graphs is not None
    made._graphs._kept.clear()  # of the step by which it was proved at start
    made._graphs._last = None
    recorded.captures = recorded.replays = 0
    return made, runner(models[1], dictionary, threads=1), recorded


def write(runners: Any, row: int, steering: Steering | None) -> None:
    for one in runners:
        prepared = None if steering is None else one.steerer.prepare(steering)
        one.steerer.write(row, prepared, len(PROMPT))


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gemma3", "qwen3"])
def test_a_replay_sees_what_changed_since_the_capture(
    dictionary, some, steer, family, device
) -> None:
    """Tokens, positions, flags, steering that is written anew, and keys behind a window."""
    made, plain, recorded = pair(dictionary, family, device)
    for row in range(3):
        for one in (made, plain):
            prefill(one, row)
    write((made, plain), 1, some)
    other = steer((5, "clamp", 9.0), (2, "add", 4.0), (8, "scale", 0.5), (9, "clamp", 1.0))
    for at in range(20, 32):
        if at == 27:
            write((made, plain), 1, other)
        batch = step(3, at, flag=at % 3 > 0)
        close(made.forward(batch), plain.forward(batch))
    assert recorded.captures == 1
    assert recorded.replays == 11


def test_who_is_not_steered_gets_the_bits_of_a_step_without_steered_neighbours(
    dictionary, some, device
) -> None:
    made, _, _ = pair(dictionary, device=device)
    other, _, recorded = pair(dictionary, device=device)
    write((made,), 1, some)
    for at in range(4):
        batch = step(2, at + 1)
        assert torch.equal(made.forward(batch)[0].clone(), other.forward(batch)[0])
    assert recorded.replays


def test_a_pass_is_captured_anew_for_what_its_operators_depend_on(
    dictionary, some, steer, device
) -> None:
    made, plain, recorded = pair(dictionary, device=device)
    two = (made, plain)

    def captures(*batches: Batch) -> int:
        before = recorded.captures
        for batch in batches:
            for _ in range(2):
                close(made.forward(batch), plain.forward(batch))
        return recorded.captures - before

    assert captures(step(2, 5)) == 1
    assert captures(step(2, 6)) == 0
    assert captures(step(3, 5), step(2, 9), step(2, 17)) == 3  # rows, and keys looked at, twice
    write(two, 3, some)
    assert captures(step(2, 5)) == 0, "a row that is not in the step is steered"
    write(two, 1, some)
    assert captures(step(2, 5)) == 1
    write(two, 1, replace(some, edits=some.edits[:2]))
    assert captures(step(2, 5)) == 0, "as many entries are in use, by another row"
    write(two, 3, None)
    assert captures(step(2, 5)) == 1
    write(two, 1, steer((3, "clamp", 6.0), (9, "ablate", 0.0), keep_norm=True))
    assert captures(step(2, 5)) == 1
    assert captures(step(2, 5, traced=True)) == 1
    write(two, 1, None)
    assert captures(step(2, 5)) == 0


def test_a_vector_that_nobody_uses_any_more_leaves_captured_steps_as_they_are(dictionary) -> None:
    """Where one came once, there is something more that could act, at every step from then on."""
    made, plain, recorded = pair(dictionary)
    for at in (4, 5):
        close(made.forward(step(2, at)), plain.forward(step(2, at)))
    write((made, plain), 3, Steering((edit(vector(CALM, 0, "resid_pre")),)))
    write((made, plain), 3, None)
    for at in (6, 7):
        close(made.forward(step(2, at)), plain.forward(step(2, at)))
    assert (recorded.captures, recorded.replays) == (1, 3)


def test_a_traced_replay_tells_what_this_step_read(dictionary, some, device) -> None:
    made, plain, recorded = pair(dictionary, device=device)
    write((made, plain), 1, some)
    told = []
    for at in range(1, 7):
        batch = step(2, at, traced=True)
        close(made.forward(batch), plain.forward(batch))
        own, expected = made.steerer.readings(1), plain.steerer.readings(1)
        for one, other in zip(own, expected, strict=True):
            assert (one.before, one.after) == pytest.approx((other.before, other.after), abs=1e-3)
        told.append(own)
    assert recorded.replays == 5
    assert len(set(told)) > 1
    made.forward(step(2, 7))
    assert not made.steerer.readings(1), "nothing is traced any more"


def test_a_key_that_comes_once_is_not_captured(dictionary) -> None:
    made, _, recorded = pair(dictionary)
    for rows in (1, 2, 3, 2, 1):
        made.forward(step(rows, 4))
    assert recorded.captures == 0


def test_what_cannot_be_captured_runs_as_it_does_without(dictionary, some) -> None:
    made, plain, recorded = pair(dictionary)
    write((made, plain), 1, some)
    for batch in [Batch(1, [5], [3], [True], ())] * 3:
        close(made.forward(batch), plain.forward(batch))
    close(prefill(made, 2), prefill(plain, 2))
    assert recorded.captures == 0


def test_a_topk_dictionary_that_reads_is_not_captured(make_dictionary, some) -> None:
    made, plain, recorded = pair(make_dictionary(architecture="topk"))
    write((made, plain), 1, some)
    for at in range(1, 5):
        close(made.forward(step(2, at)), plain.forward(step(2, at)))
    assert recorded.captures == 0


def test_a_capture_that_fails_is_told_once_and_no_other_is_tried(
    dictionary, some, caplog, monkeypatch
) -> None:
    made, plain, recorded = pair(dictionary)
    write((made, plain), 1, some)
    tried = []

    def fail(run: Any) -> Any:
        tried.append(run)
        run()
        raise RuntimeError("no room for a graph")

    monkeypatch.setattr(made._graphs, "_capture", fail)
    for at in range(1, 6):
        close(made.forward(step(2, at)), plain.forward(step(2, at)))
    assert len(tried) == 1
    assert recorded.replays == 0
    assert [one for one in caplog.messages if "no room for a graph" in one] == [
        "decode steps run without CUDA graphs: no room for a graph"
    ]


@pytest.mark.parametrize("change", [lambda x: x.fill_(3.0), lambda x: x.mul_(1.05)])
def test_a_capture_that_gives_something_else_is_found_at_start(
    dictionary, caplog, monkeypatch, change
) -> None:
    """In float32 also what is off by a twentieth."""

    def wrong(run: Any) -> Any:
        return lambda: change(made_by[0]._logits)

    made_by: list[Any] = []
    own = graphing.Graphs.__init__

    def keep(self: Any, *args: Any, **kwargs: Any) -> None:
        made_by[:] = [self]
        own(self, *args, **kwargs)

    monkeypatch.setattr(graphing.Graphs, "__init__", keep)
    assert runner(tiny_model(), dictionary, threads=1, graphs=wrong)._graphs is None
    assert "a captured step differs" in caplog.text


def test_no_more_graphs_are_kept_than_there_may_be(dictionary, device) -> None:
    made, plain, recorded = pair(dictionary, device=device)
    made._graphs._most = 2
    for rows in (1, 2, 3, 3, 1):
        for _ in range(2):
            close(made.forward(step(rows, 4)), plain.forward(step(rows, 4)))
        assert len(made._graphs._kept) <= 2
    assert recorded.captures == 4, "the first had made room when it came again"


async def test_replies_are_those_of_an_engine_that_captures_nothing(
    make_engine, ask, hear, steer
) -> None:
    """Steered and not, traced, compared, guarded by a norm, changed while they run, of all lengths:
    rows leave and move, others come.
    """
    clamped = steer((3, "clamp", 16.0), (21, "at_least", 12.0))
    other = steer((5, "clamp", 12.0))
    requests = [
        ask(max_tokens=30),
        ask(steering=clamped, max_tokens=40),
        ask("A longer beginning than the others have.", steering=clamped, trace=True),
        replace(ask("Somebody else's bridge.", steering=clamped, max_tokens=25), kl=True),
        ask(steering=replace(clamped, keep_norm=True), max_tokens=33),
        ask(steering=clamped, changes=(Change(9, other), Change(17, Steering())), max_tokens=28),
        ask(temperature=1.0, max_tokens=21),
    ]
    recorded = Recorded()
    expected = await hear(make_engine(max_rows=5, max_context=96), *requests)
    made = make_engine(max_rows=5, max_context=96, graphs=recorded)
    found = await hear(made, *requests)
    for own, reply in zip(found, expected, strict=True):
        assert own.ids == reply.ids
        assert own.end.arithmetic == reply.end.arithmetic
    assert recorded.replays > 20
    read = [
        [n for token in one[2].tokens for r in token.readings for n in (r.before, r.after)]
        for one in (found, expected)
    ]
    assert read[0] == pytest.approx(read[1], abs=1e-3)
    kl = [token.contrast.kl for token in expected[3].tokens]
    assert [token.contrast.kl for token in found[3].tokens] == pytest.approx(kl, abs=1e-3)
