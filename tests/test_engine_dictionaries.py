"""Dictionaries on a model: several at once, and those that do not fit it are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from published import place
from runner_passes import PROMPT, prefill, runner
from site_models import MODELS, SMALL, Wiring, model_of
from torch import Tensor

from dictionaries.edits import EditTable, Op
from dictionaries.edits import steer as steer_by_formula
from dictionaries.formats import open_dictionary
from dictionaries.pack import pack
from server.engine.batch import Batch, Span
from server.engine.conditions import Condition, Crossing, Timing
from server.engine.runner import Runner
from server.engine.types import FeatureEdit
from server.errors import Unsteerable
from server.model_subject import ModelSubject


@pytest.mark.parametrize("norm", ["none", "layer_norm"])
def test_several_dictionaries_at_one_site_all_read_the_unedited_x(
    make_model, make_dictionary, steer, norm
) -> None:
    one = make_dictionary("one", seed=1, normalize=norm)
    two = make_dictionary("two", seed=2, architecture="topk")
    steering = steer(
        (3, "scale", 3.0, "all", "one"),
        (8, "clamp", 2.0, "all", "two"),
        (5, "add", 1.5, "all", "one"),
    )
    seen: list[Tensor] = []
    model = make_model()
    made = runner(model, one, two)
    layer = model.model.layers[1]
    layer.register_forward_hook(lambda *a: seen.append(a[2].clone()))
    prefill(made, 0)
    x = seen.pop()
    made.steerer.write(0, made.steerer.prepare(steering))
    prefill(made, 0)
    expected = x.clone()
    for dictionary in (one, two):
        own = [e for e in steering.edits if e.dictionary == dictionary.info.id]
        rows = dictionary.rows([e.feature for e in own])
        cutoff = dictionary.cutoff(x)  # `two` normalises nothing, so x is what its encoder sees
        table = EditTable.of([e.edit for e in own])
        expected += steer_by_formula(x, rows, table, norm=dictionary.info.norm, cutoff=cutoff) - x
    torch.testing.assert_close(seen.pop(), expected, atol=1e-5, rtol=1e-5)


def test_dictionaries_at_several_layers_act_together(make_model, make_dictionary, steer) -> None:
    low, high = make_dictionary("low", layer=0), make_dictionary("high", layer=2)
    edits = (3, "add", 2.0, "all", "low"), (3, "add", 2.0, "all", "high")
    logits = []
    for chosen in (edits[:1], edits[1:], edits):
        made = runner(make_model(), low, high)
        made.steerer.write(0, made.steerer.prepare(steer(*chosen)))
        logits.append(prefill(made, 0))
    assert len({round(one[0].item(), 3) for one in logits}) == 3


def test_a_dictionary_of_another_model_is_refused_with_both_numbers(
    make_model, make_dictionary
) -> None:
    with pytest.raises(Unsteerable, match="48 numbers, but the model's residual stream has 32"):
        runner(make_model(), make_dictionary(d_in=48))
    with pytest.raises(Unsteerable, match="layer 7 resid_post, but the model has layers 0 to 2"):
        runner(make_model(), make_dictionary(layer=7))
    with pytest.raises(Unsteerable, match=r"hook_z has vectors of 48 .* 32 wide"):
        runner(make_model(), make_dictionary(hook="hook_z", d_in=48))


def test_a_tensor_with_two_names_is_read_before_any_edit_of_it(make_dictionary, steer) -> None:
    """What leaves layer 0 enters layer 1: one SAE under either name, beside another's clamp."""
    loud = make_dictionary("loud", layer=0, seed=5)
    edits = steer(
        (3, "clamp", 40.0, "all", "loud"), *((f, "clamp", 2.0, "all", "sae") for f in range(7))
    )
    reached = Condition("sae", 7, Crossing.ABOVE, 0.5)
    waiting = FeatureEdit("loud", 4, Op.ADD, 9.0, Op.ADD.edit(9.0), timing=Timing(when=reached))
    found = []
    for layer, hook in ((0, "resid_post"), (1, "resid_pre")):
        sae = make_dictionary("sae", layer=layer, hook=hook)
        options = {"rows": 1, "capacity": 32, "max_edits": 9, "threads": 1}
        made = Runner(model_of("llama"), {"loud": loud, "sae": sae}, **options)
        steering = replace(edits, edits=(*edits.edits, waiting))
        made.steerer.write(0, made.steerer.prepare(steering))
        span = Span(0, 0, PROMPT, (True,) * len(PROMPT), True)
        logits = made.forward(Batch(0, [], [], [], (span,), traced=True))
        found.append((logits, made.steerer.readings(0)))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert any(reading.before > 0 for reading in found[0][1])


@pytest.mark.parametrize("family", [name for name, wiring in MODELS.items() if wiring.mid is None])
def test_side_by_side_there_is_no_resid_mid(family, make_dictionary, tokenizer) -> None:
    dictionary = make_dictionary(hook="resid_mid")
    with pytest.raises(Unsteerable, match="side by side: it has no resid_mid"):
        Runner(model_of(family), {"a": dictionary}, rows=1, capacity=16, max_edits=1, threads=1)
    with pytest.raises(Unsteerable, match="side by side: it has no resid_mid"):
        ModelSubject(model_of(family), tokenizer, dictionary.info.site, dictionary)


@pytest.mark.parametrize("hook", ["attn_out", "mlp_out", "resid_mid"])
def test_a_block_whose_output_is_scaled_before_it_is_added_is_refused(
    hook, make_dictionary, monkeypatch
) -> None:
    monkeypatch.setitem(MODELS, "granite", Wiring({**SMALL, "residual_multiplier": 0.5}))
    with pytest.raises(Unsteerable, match=rf"{hook} cannot be steered there. Use a dict"):
        Runner(
            model_of("granite"),
            {"a": make_dictionary(hook=hook)},
            rows=1,
            capacity=16,
            max_edits=1,
            threads=1,
        )


def test_half_precision_passes_the_proof_of_its_sums(make_dictionary) -> None:
    made = {hook: make_dictionary(hook, hook=hook) for hook in ("attn_out", "mlp_out")}
    model = model_of("gemma2").bfloat16()
    assert Runner(model, made, rows=1, capacity=16, max_edits=1, threads=1).steerer


def test_a_dictionary_of_a_modules_output_is_not_put_after_the_norm(
    make_dictionary, tmp_path
) -> None:
    """Nor is its packed copy."""
    dictionary = make_dictionary(hook="mlp_out")
    dictionary.info = replace(dictionary.info, of_module=True)
    pack(dictionary, tmp_path)
    options = {"rows": 1, "capacity": 16, "max_edits": 1, "threads": 1}
    for one in (dictionary, open_dictionary(tmp_path)):
        with pytest.raises(Unsteerable, match="normalises that before it is added"):
            Runner(model_of("olmo2"), {"a": one}, **options)
        assert Runner(model_of("llama"), {"a": one}, **options).steerer


@pytest.mark.parametrize(
    ("name", "of_module"),
    [("sparsify_sae_v1", True), ("dl_autoencoder", True), ("saelens_v6_standard", False)],
)
def test_a_published_dictionary_says_whether_it_is_of_a_modules_output(name, of_module) -> None:
    assert open_dictionary(place(name)).info.of_module == of_module
