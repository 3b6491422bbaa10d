"""Whole layers in one call: the bits of their parts, whoever looks on, and of any company."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from fused_models import WHOLE, halved, logits
from runner_passes import prefill, runner
from tiny import LAYERS, SMALL
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    SiglipVisionConfig,
)

from server.engine import linear, stacked
from server.engine.around import Body
from server.engine.attention import STEP, SlotStep
from server.engine.batch import Batch, Span
from server.engine.linear import halve
from server.engine.native import layers, whole

pytestmark = pytest.mark.skipif(not layers.able(), reason="our own code cannot be compiled here")
PASSES = 3 + 3 + 12  # of `logits`: prompts of 6, 12 and 18 tokens in chunks of 7, and steps
ROW = range(3, 27)


@pytest.fixture(autouse=True)
def _small_products_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "WORTH", 0)


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
    assert isinstance(body.forward, Body)
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


def test_of_a_model_that_also_sees_the_layers_run_whole(runs: list[int]) -> None:
    """What is around its text model has the name of a body, and no layers. It hands on embeddings,
    so transformers calls the layers, and those that slide are rotated otherwise.
    """
    text = Gemma3TextConfig(**SMALL, head_dim=8, sliding_window=8, sliding_window_pattern=2)
    seeing = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        image_size=28, patch_size=14,
    )  # fmt: skip
    torch.manual_seed(1)
    config = Gemma3Config(text_config=text, vision_config=seeing, mm_tokens_per_image=4)
    model = Gemma3ForConditionalGeneration(config).eval().requires_grad_(False)
    halve(model)
    made = runner(model, threads=1)
    runs.clear()
    assert prefill(made, 0, ROW).isfinite().all()
    assert runs == [1, 1, 1]
