"""Every site of every family: what the engine steers there is what a hand-written hook steers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from runner_passes import PROMPT, prefill, runner
from site_models import MODELS, SITES, model_of
from torch import Tensor, nn

from dictionaries.dictionary import Dictionary
from server.engine.batch import Batch, Span
from server.engine.runner import Runner
from server.engine.sites import decoder_layers

EDITS = ((3, "clamp", 4.0), (9, "ablate", 0.0), (17, "scale", 3.0), (20, "add", 2.0))
CASES = [(f, h) for f, w in MODELS.items() for h in SITES if w.mid is not None or h != "resid_mid"]


@pytest.fixture(scope="module")
def built(make_dictionary: Callable[..., Dictionary]) -> Callable[[str], Any]:
    """(runner with a dictionary at each site, the plain model, the dictionaries) of a family."""

    @cache
    def build(family: str) -> tuple[Runner, Any, dict[str, Dictionary]]:
        wiring = MODELS[family]
        made = {
            hook: make_dictionary(hook, hook=hook, d_in=wiring.heads if hook == "hook_z" else 32)
            for hook in SITES
            if wiring.mid is not None or hook != "resid_mid"
        }
        options = {"rows": 2, "capacity": 64, "max_edits": 8, "threads": 1}
        return Runner(model_of(family), made, **options), model_of(family), made

    return build


def by_hand(dictionary: Dictionary, x: Tensor) -> Tensor:
    """What the edits add to x, from the whole SAE."""
    f = dictionary.encode(x)
    after = f.clone()
    after[..., 3], after[..., 9] = 4.0, 0.0
    after[..., 17] *= 3.0
    after[..., 20] += 2.0
    return dictionary.decode(after, x) - dictionary.decode(f, x)


def hand_hooked(family: str, model: Any, hook: str, dictionary: Dictionary) -> Tensor:
    """Logits after the prompt of the plain model, hooked at layer 1 by the table's modules."""
    wiring = MODELS[family]
    layer: nn.Module = model.get_submodule(wiring.layers)[1]
    added: list[Tensor] = []

    def on_input(_module: Any, args: Any, kwargs: Any) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        added.append(by_hand(dictionary, x))
        if args:
            return (x + added[-1], *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": x + added[-1]}

    def on_output(_module: Any, _args: Any, out: Any) -> Any:
        x = out[0] if isinstance(out, tuple) else out
        moved = x + by_hand(dictionary, x)
        return (moved, *out[1:]) if isinstance(out, tuple) else moved

    def carry(_module: Any, _args: Any, out: Any) -> Any:
        return (out[0] + added[-1], *out[1:]) if isinstance(out, tuple) else out + added[-1]

    if hook == "resid_mid":  # the MLP sees it edited, and the residual goes on from it
        middle = layer.get_submodule(wiring.mid)
        handles = [
            middle.register_forward_pre_hook(on_input, with_kwargs=True),
            layer.register_forward_hook(carry),
        ]
    elif hook in ("resid_pre", "hook_z"):
        at = layer if hook == "resid_pre" else layer.get_submodule(wiring.out)
        handles = [at.register_forward_pre_hook(on_input, with_kwargs=True)]
    else:
        where = {"resid_post": "", "attn_out": wiring.attention, "mlp_out": wiring.mlp}[hook]
        handles = [layer.get_submodule(where).register_forward_hook(on_output)]
    logits: Tensor = model(torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits


@pytest.mark.parametrize(("family", "hook"), CASES)
def test_a_site_is_steered_as_by_a_hook_written_by_hand(family, hook, built, steer) -> None:
    made, model, dictionaries = built(family)
    edits = [(*edit, "all", hook) for edit in EDITS]
    made.steerer.write(0, made.steerer.prepare(steer(*edits)))
    for start in range(0, len(PROMPT), 7):
        part = PROMPT[start : start + 7]
        last = start + len(part) == len(PROMPT)
        span = Span(0, start, part, (True,) * len(part), last)
        logits = made.forward(Batch(0, [], [], [], (span,)))
    made.steerer.write(0, None)
    expected = hand_hooked(family, model, hook, dictionaries[hook])
    plain = model(torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
    torch.testing.assert_close(logits[0], expected, atol=5e-4, rtol=1e-4)
    assert (expected - plain).abs().max() > 0.05, "the edits are seen in the logits"


def test_resid_mid_reads_the_sum_that_the_mlp_sees(make_model, make_dictionary, steer) -> None:
    """A clamp depends on what is read: it must leave the feature at its target there."""
    dictionary = make_dictionary(hook="resid_mid", architecture="standard")
    model = make_model()
    made = runner(model, dictionary)
    entering: list[Tensor] = []
    norm = model.model.layers[1].post_attention_layernorm
    norm.register_forward_pre_hook(lambda _m, args: entering.append(args[0].clone()))
    prefill(made, 0)
    before = entering.pop()
    made.steerer.write(0, made.steerer.prepare(steer((3, "clamp", 4.0))))
    prefill(made, 0)
    f = dictionary.encode(before)[..., 3:4]
    expected = before + (4.0 - f) * dictionary.rows([3]).dec[0]
    torch.testing.assert_close(entering.pop(), expected, atol=1e-5, rtol=1e-5)


def test_the_language_model_is_found_inside_a_multimodal_one() -> None:
    model = model_of("gemma3")
    found = decoder_layers(model)
    assert found == list(model.get_submodule("model.language_model.layers"))
    assert len(found) == len(model.get_submodule("model.vision_tower").encoder.layers), "a decoy"
