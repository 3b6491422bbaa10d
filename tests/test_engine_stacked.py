"""Whole layers in one call: the bits of their parts, whoever looks on, and of any company."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from fused_models import WHOLE, logits, model_of
from runner_passes import prefill, runner
from tiny import LAYERS

from server.engine import linear, stacked
from server.engine.attention import STEP, SlotStep
from server.engine.batch import Batch, Span
from server.engine.linear import halve
from server.engine.native import layers, whole
from server.engine.runner import Runner

pytestmark = pytest.mark.skipif(not layers.able(), reason="our own code cannot be compiled here")
PASSES = 3 + 3 + 12  # of `logits`: prompts of 6, 12 and 18 tokens in chunks of 7, and steps
ROW = range(3, 27)


@pytest.fixture(autouse=True)
def _small_products_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "WORTH", 0)


@pytest.fixture
def on_two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def halved(family: str) -> Any:
    model = model_of(family)
    halve(model)
    return model


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many layers each call ran, from here on."""
    found: list[int] = []
    run = whole.Run.__call__

    def counted(self: Any, *given: Any) -> Any:
        found.append(len(self._layers))
        return run(self, *given)

    monkeypatch.setattr(whole.Run, "__call__", counted)
    return found


@pytest.mark.parametrize("family", WHOLE)
def test_layers_in_one_call_give_the_bits_of_their_parts(
    family: str, monkeypatch: pytest.MonkeyPatch, runs: list[int]
) -> None:
    model = halved(family)
    with monkeypatch.context() as patch:
        patch.setattr(stacked, "_LAYERS", {"another"})
        parts = runner(copy.deepcopy(model), threads=1)
    expected = logits(parts)
    assert runs == []
    made = runner(model, threads=1)
    runs.clear()
    assert all(map(torch.equal, logits(made), expected))
    assert len(runs) >= PASSES
    assert set(runs) == {LAYERS}


@pytest.mark.parametrize(
    ("register", "together"),
    [
        (lambda layer, hook: layer.register_forward_hook(hook), [1, 1, 1]),
        (lambda layer, hook: layer.register_forward_pre_hook(hook), [1, 2]),
        (lambda layer, hook: layer.mlp.register_forward_hook(hook), [1, 1]),
        (lambda layer, hook: layer.self_attn.o_proj.register_forward_pre_hook(hook), [1, 1]),
    ],
)
def test_who_hooks_a_layer_sees_what_parts_would_show(
    register: Any, together: list[int], monkeypatch: pytest.MonkeyPatch, runs: list[int]
) -> None:
    """And layers run together again once nobody does."""
    model = halved("llama")
    with monkeypatch.context() as patch:
        patch.setattr(stacked, "_LAYERS", {"another"})
        parts = runner(copy.deepcopy(model), threads=1)
    made = runner(model, threads=1)
    before = logits(made)
    found: list[list[Any]] = []
    for one in (parts, made):
        seen: list[Any] = []
        runs.clear()
        handle = register(one.model.model.layers[1], lambda *given, to=seen: to.append(given[1:]))
        prefill(one, 0, ROW)
        handle.remove()
        found.append(seen[0])
    assert runs == together
    for got, expected in zip(*found, strict=True):
        got, expected = (one if isinstance(one, tuple) else (one,) for one in (got, expected))
        assert all(map(torch.equal, got, expected))
    runs.clear()
    assert all(map(torch.equal, logits(made), before))
    assert set(runs) == {LAYERS}


def test_what_a_hook_changes_goes_on_into_the_layers_behind_it(runs: list[int]) -> None:
    made = runner(halved("llama"), threads=1)
    runs.clear()
    before = prefill(made, 0, ROW)
    layer = made.model.model.layers[0]
    handle = layer.register_forward_hook(lambda _module, _given, out: out * 1.5)
    changed = prefill(made, 0, ROW)
    handle.remove()
    assert runs == [LAYERS, 1, LAYERS - 1]
    assert not torch.allclose(changed, before, atol=1e-3)
    assert torch.equal(prefill(made, 0, ROW), before)


def test_where_all_layers_are_whole_none_is_compiled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    made = runner(halved("llama"), threads=1, compiled=tmp_path / "compiled")
    assert (made.compilation, made.arithmetic) == ("off", "eager")
    assert "nothing is compiled: our own code runs these layers whole" in caplog.text
    assert not (tmp_path / "compiled").exists()


def test_a_layer_whose_forward_another_took_is_left_to_it(runs: list[int]) -> None:
    made = runner(halved("llama"), threads=1)
    runs.clear()
    layer, asked = made.model.model.layers[1], []
    own = layer.forward
    layer.forward = lambda *given, **named: asked.append(given) or own._own(*given, **named)
    after = prefill(made, 0, ROW)
    layer.forward = own
    assert (len(asked), runs) == (1, [1, 1])
    assert torch.equal(prefill(made, 0, ROW), after)


def test_layers_that_have_run_along_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    made = runner(halved("llama"), threads=1)
    called: list[int] = []
    forward = stacked.Layer.__call__

    def counted(self: stacked.Layer, *given: Any, **how: Any) -> Any:
        called.append(self.index)
        return forward(self, *given, **how)

    monkeypatch.setattr(stacked.Layer, "__call__", counted)
    expected = prefill(made, 0, ROW)
    assert called == [0]
    made.model.model.layers[1].register_forward_hook(lambda *_: None)
    assert torch.equal(prefill(made, 0, ROW), expected)
    assert called == [0, 0, 1, 2]


@pytest.mark.parametrize("family", WHOLE)
def test_a_body_can_what_it_could(family: str) -> None:
    """Take embeddings, as of a model that also sees, and show hidden states."""
    made = runner(halved(family), threads=1)
    body = made.model.model
    assert isinstance(body.forward, stacked.Body)
    tokens = tuple(ROW)
    batch = Batch(0, [], [], [], (Span(0, 0, tokens, (True,) * len(tokens), True),))
    ids, at = torch.tensor([tokens]), torch.arange(len(tokens))[None]
    found = []
    asked = {"input_ids": ids, "output_hidden_states": True}
    for given in ({"input_ids": ids}, {"inputs_embeds": body.embed_tokens(ids)}, asked):
        STEP.set(SlotStep(made.cache, batch, made.device))
        out = body(**given, position_ids=at, attention_mask=made._mask, use_cache=False)
        found.append(out.last_hidden_state)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert len(out.hidden_states) == LAYERS + 1
    assert not torch.equal(out.hidden_states[0], out.hidden_states[1])


def test_a_body_that_does_more_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model = halved("llama")
    own = type(model.model).forward

    def louder(self: Any, *given: Any, **how: Any) -> Any:
        out = own(self, *given, **how)
        out.last_hidden_state = out.last_hidden_state * 1.5
        return out

    monkeypatch.setattr(type(model.model), "forward", louder)
    made = runner(model, threads=1)
    assert "forward" not in vars(made.model.model)
    assert isinstance(made.model.model.layers[0].forward, stacked.Layer)


def steered(family: str, dictionary: Any, steer: Any) -> Runner:
    """Rows 0 and 2 steered, each otherwise; row 1 not."""
    made = runner(halved(family), dictionary, threads=1)
    for row, edits in enumerate(([(3, "clamp", 6.0), (9, "ablate", 0.0)], [], [(17, "add", 3.0)])):
        prepared = made.steerer.prepare(steer(*edits)) if edits else None
        made.steerer.write(row, prepared, 6 + 6 * row)
    return made


@pytest.mark.parametrize("family", WHOLE)
def test_a_row_that_decodes_gets_the_same_bits_in_any_company(
    family: str, dictionary: Any, steer: Any
) -> None:
    """Beside rows of other lengths and steering, beside a prompt that is admitted, on one thread
    or on two; steered itself or not.
    """
    made = steered(family, dictionary, steer)
    for row in range(3):
        prefill(made, row, range(3, 9 + 6 * row), cut=7)
    tokens, positions = [4, 9, 70], [6, 12, 18]

    def logits_of(first: int, stop: int, *spans: Span) -> torch.Tensor:
        rows = slice(first, stop)
        batch = Batch(first, tokens[rows], positions[rows], [True] * (stop - first), spans)
        return made.forward(batch)[: stop - first].clone()

    together = logits_of(0, 3)
    assert torch.equal(
        logits_of(0, 3, Span(3, 0, tuple(range(20, 33)), (True,) * 13, True)), together
    )
    torch.set_num_threads(2)
    try:
        assert torch.equal(logits_of(0, 3), together)
    finally:
        torch.set_num_threads(1)
    for row, own in enumerate(together):
        assert torch.equal(logits_of(row, row + 1)[0], own)


def kept(made: Runner, row: int) -> list[torch.Tensor]:
    """The keys and values of a row's prompt."""
    return [one[row, :, : len(ROW)].clone() for one in made.cache.tensors()]


def prompts(made: Runner, cuts: Sequence[int]) -> list[torch.Tensor]:
    """Logits after the same prompt in row 0, cut at these places, and what is kept of it."""
    for start, stop in pairwise(cuts):
        part = tuple(ROW[start:stop])
        span = Span(0, start, part, (True,) * len(part), stop == len(ROW))
        found = made.forward(Batch(0, [], [], [], (span,)))
    return [found[0].clone(), *kept(made, 0)]


@pytest.mark.parametrize("family", WHOLE)
def test_a_prompt_gets_the_same_bits_however_it_is_cut(
    family: str, dictionary: Any, steer: Any, on_two_threads: None
) -> None:
    """And beside others: what is kept of it too, so that replies do not depend on the load."""
    made = steered(family, dictionary, steer)
    expected = prompts(made, [0, 24])
    for cuts in ([0, 1, 24], [0, 7, 14, 21, 24], [*range(25)]):
        assert all(map(torch.equal, prompts(made, cuts), expected))
    others = [Span(row, 0, tuple(range(40, 60)), (True,) * 20, True) for row in (1, 2)]
    own = Span(0, 0, tuple(ROW), (True,) * len(ROW), True)
    found = made.forward(Batch(0, [], [], [], (others[0], own, others[1])))
    assert torch.equal(found[1], expected[0])
    assert all(map(torch.equal, kept(made, 0), expected[1:]))
