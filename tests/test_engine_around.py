"""What is around layers that run whole: positions, edits within a run, the norm and the head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fused_models import WHOLE, halved, logits
from runner_passes import decode, prefill, runner
from tiny import LAYERS

from server.engine import linear
from server.engine.around import Body, Head, Rotation
from server.engine.attention import STEP, SlotStep
from server.engine.batch import Batch, Span
from server.engine.native import layers, whole
from server.engine.runner import Runner
from server.engine.sites import OnOutput

pytestmark = pytest.mark.skipif(not layers.able(), reason="our own code cannot be compiled here")
EDITS = [(3, "clamp", 6.0), (9, "ablate", 0.0)], [(17, "add", 3.0), (2, "clamp", 4.0)]


@pytest.fixture(autouse=True)
def _small_products_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "WORTH", 0)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, bool]]:
    """Of each call from here on: how many layers, how many were edited, and whether it ended."""
    found: list[tuple[int, int, bool]] = []
    run = whole.Run.__call__

    def counted(self: Any, x: Any, turns: Any, step: Any, moves: Any, end: Any) -> Any:
        found.append((len(self._layers), sum(map(bool, moves.values())), end is not None))
        return run(self, x, turns, step, moves, end)

    monkeypatch.setattr(whole.Run, "__call__", counted)
    return found


def steered(steer: Callable[..., Any], *dictionaries: Any, family: str = "llama") -> Runner:
    """Rows 0 and 2 of three, by the first and the last of the dictionaries; prompts are in."""
    made = runner(halved(family), *dictionaries, threads=1)
    for row, edits in ((0, EDITS[0]), (2, EDITS[1])):
        name = dictionaries[0 if row == 0 else -1].info.id
        steering = steer(*((*edit, "all", name) for edit in edits))
        made.steerer.write(row, made.steerer.prepare(steering), 20)
    for row in range(3):
        prefill(made, row)
    return made


def told(made: Runner) -> tuple[torch.Tensor, list[Any]]:
    """Logits of a traced step, and the readings of its rows."""
    found = decode(made, [4, 9, 70], 20, traced=True).clone()
    return found, [made.steerer.readings(row) for row in range(3)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("family", WHOLE)
def test_plain_edits_are_made_within_a_run_as_by_the_hook(
    family: str,
    threads: int,
    dictionary: Any,
    steer: Callable[..., Any],
    runs: list[tuple[int, int, bool]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = steered(steer, dictionary, family=family)
    torch.set_num_threads(threads)
    try:
        runs.clear()
        within = told(made)
        assert runs == [(LAYERS, 1, True)]
        for hook in made.model.model.layers[1]._forward_hooks.values():
            monkeypatch.setattr(hook, "moves", lambda: None)
        runs.clear()
        by_hook = told(made)
        assert runs == [(2, 0, False), (LAYERS - 2, 0, True)]
    finally:
        torch.set_num_threads(1)
    assert torch.equal(within[0], by_hook[0])
    assert within[1] == by_hook[1]
    assert [len(one) for one in within[1]] == [2, 0, 2]
    made.steerer.write(0, None)
    assert not torch.equal(told(made)[0][0], within[0][0])
    assert torch.equal(told(made)[0][2], within[0][2])


def test_dictionaries_of_one_place_all_read_it_unedited(
    make_dictionary: Callable[..., Any], steer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = make_dictionary("one"), make_dictionary("two", layer=2, hook="resid_pre", seed=5)
    made = runner(halved("llama"), *both, threads=1)
    steering = steer((3, "clamp", 6.0, "all", "one"), (3, "clamp", 2.0, "all", "two"))
    made.steerer.write(1, made.steerer.prepare(steering), 20)
    for row in range(3):
        prefill(made, row)
    within = told(made)
    for hook in made.model.model.layers[1]._forward_hooks.values():
        monkeypatch.setattr(hook, "moves", lambda: None)
    by_hook = told(made)
    assert torch.equal(within[0], by_hook[0])
    assert within[1] == by_hook[1]
    assert len(within[1][1]) == 2


def test_what_is_not_plain_is_left_to_the_hook(
    make_dictionary: Callable[..., Any],
    steer: Callable[..., Any],
    runs: list[tuple[int, int, bool]],
) -> None:
    """Of a dictionary that scales what it reads, and of replies that keep their norm."""
    scaled = make_dictionary("scaled", normalize="layer_norm")
    for dictionary, keep in ((scaled, False), (make_dictionary(), True)):
        made = runner(halved("llama"), dictionary, threads=1)
        edit = (3, "clamp", 6.0, "all", dictionary.info.id)
        steering = steer(edit, keep_norm=keep)
        made.steerer.write(0, made.steerer.prepare(steering), 20)
        prefill(made, 0)
        runs.clear()
        decode(made, [4], 20)
        assert runs == [(2, 0, False), (LAYERS - 2, 0, True)]


@pytest.mark.parametrize("family", WHOLE)
def test_nothing_is_edited_twice_where_transformers_calls_the_layers(
    family: str, dictionary: Any, steer: Callable[..., Any]
) -> None:
    """As it does with embeddings in hand: hooks run, and nothing is done in their place."""
    made = steered(steer, dictionary, family=family)
    expected = told(made)[0]
    tokens, positions = [4, 9, 70], [20, 20, 20]
    batch = Batch(0, tokens, positions, [True] * 3, ())
    made.steerer.begin(batch)
    STEP.set(SlotStep(made.cache, batch, made.device))
    out = made.model(
        inputs_embeds=made.model.get_input_embeddings()(torch.tensor([tokens])),
        position_ids=torch.tensor([positions]),
        attention_mask=made._mask,
        use_cache=False,
    )
    assert torch.equal(out.logits[0], expected)


@pytest.mark.parametrize("family", WHOLE)
@pytest.mark.parametrize("place", ["norm", "head"])
def test_who_looks_at_the_norm_or_the_head_sees_what_it_makes(
    family: str, place: str, runs: list[tuple[int, int, bool]]
) -> None:
    made = runner(halved(family), threads=1)
    assert isinstance(made.model.forward, Head)
    expected = logits(made)
    module = made.model.model.norm if place == "norm" else made.model.lm_head
    seen: list[Any] = []
    handle = module.register_forward_hook(lambda _module, given, out: seen.append((given[0], out)))
    runs.clear()
    assert all(map(torch.equal, logits(made), expected))
    handle.remove()
    assert all(ended is (place == "head") for _, _, ended in runs)
    into, out = seen[-1]
    assert torch.equal(module(into), out)
    if place == "head":
        cap = getattr(made.model.config, "final_logit_softcapping", None)
        assert torch.equal(out[0] if cap is None else (out[0] / cap).tanh() * cap, expected[-1])


def test_a_head_gives_the_logits_that_are_asked_for() -> None:
    """Of a prompt of its last token, whichever way they are made."""
    made = runner(halved("llama"), threads=1)
    tokens = tuple(range(3, 15))
    ids, at = torch.tensor([tokens]), torch.arange(len(tokens))[None]
    batch = Batch(0, [], [], [], (Span(0, 0, tokens, (True,) * len(tokens), True),))
    found = []
    for keep in (0, torch.tensor([11]), 1, torch.arange(12)):
        STEP.set(SlotStep(made.cache, batch, made.device))
        given = {"position_ids": at, "attention_mask": made._mask, "use_cache": False}
        found.append(made.model(input_ids=ids, logits_to_keep=keep, **given).logits)
    every, last, by_number, each = found
    assert every.shape == (1, 12, made.model.config.vocab_size)
    assert torch.equal(last, every[:, -1:])
    assert torch.equal(by_number, every[:, -1:])
    assert torch.equal(each, every)


def test_positions_beyond_those_that_were_turned_are_turned_alike() -> None:
    made = runner(halved("llama"), threads=1, capacity=512)
    module = made.model.model.rotary_emb
    rotation, x = Rotation(module), torch.zeros(1, 1)
    for positions in ([3, 0], [255, 256], [400, 2], [5, 399]):
        batch = Batch(0, [1, 1], positions, [True] * 2, ())
        given = torch.tensor([positions])
        found = rotation(x, given, SlotStep(made.cache, batch, made.device))
        assert all(map(torch.equal, found, module(x, position_ids=given)))


def test_positions_that_are_turned_by_their_company_are_left_to_the_model() -> None:
    model = halved("llama")
    module = model.model.rotary_emb
    module.rope_type = "dynamic"
    with pytest.raises(TypeError, match="'dynamic' are not of each position alone"):
        Rotation(module)
    made = runner(model, threads=1)
    assert not isinstance(made.model.model.forward, Body)
    assert not isinstance(made.model.forward, Head)


def test_a_hook_that_asks_for_more_than_an_output_is_not_run_along() -> None:
    """Only of a site's own functions is it known that nothing else can tell the difference."""
    made = runner(halved("llama"), threads=1)
    layer = made.model.model.layers[1]
    layer.register_forward_hook(OnOutput(lambda x: x * 2.0))
    doubled = prefill(made, 0)
    layer._forward_hooks.clear()
    layer.register_forward_hook(lambda _module, _given, out: out * 2.0)
    assert torch.equal(prefill(made, 0), doubled)
