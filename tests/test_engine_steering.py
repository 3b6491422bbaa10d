"""Tables and hooks inside the engine: at every site, and to the bit where bits are promised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import SMALL
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Llama4TextConfig,
    Phi3Config,
    Qwen2MoeConfig,
)

from dictionaries.dictionary import Dictionary
from dictionaries.edits import EditTable, Op
from dictionaries.edits import steer as steer_by_formula
from server.engine.batch import Batch, Span
from server.engine.runner import Runner
from server.engine.sites import longest_context
from server.engine.tables import Phase, Table, entries
from server.engine.types import FeatureEdit, Steering, Where
from server.errors import SteerdeckError, Unsteerable

PROMPT = tuple(range(3, 23))
SITES = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "hook_z"]


def runner(model: Any, *dictionaries: Dictionary, **options: Any) -> Runner:
    options = {"rows": 4, "capacity": 64, "max_edits": 8} | options
    return Runner(model, {one.info.id: one for one in dictionaries}, **options)


def prefill(
    made: Runner, row: int, ids: Sequence[int] = PROMPT, *, cut: int = 99, flags: Any = None
) -> Tensor:
    """Logits after the prompt, computed in chunks of `cut`."""
    flags = (True,) * len(ids) if flags is None else flags
    for start in range(0, len(ids), cut):
        stop = min(start + cut, len(ids))
        part = slice(start, stop)
        span = Span(row, start, tuple(ids[part]), tuple(flags[part]), stop == len(ids))
        logits = made.forward(Batch(0, [], [], [], (span,)))
    return logits[0]


def decode(made: Runner, tokens: list[int], position: int, *, traced: bool = False) -> Tensor:
    count = len(tokens)
    batch = Batch(0, tokens, [position] * count, [True] * count, (), traced)
    return made.forward(batch)


@pytest.fixture
def some(steer: Callable[..., Steering]) -> Steering:
    return steer((3, "clamp", 6.0), (9, "ablate", 0.0), (17, "scale", 3.0), (20, "add", 2.0))


@pytest.mark.parametrize("keep_norm", [False, True])
def test_neighbours_change_no_bit_of_an_unsteered_row(
    make_model, dictionary, some, steer, keep_norm, device
) -> None:
    """One step, the same rows: only the steering of the others differs."""
    outputs = []
    for others in (None, replace(some, keep_norm=keep_norm), steer((1, "add", 1e6))):
        made = runner(make_model("gemma2").to(device), dictionary)
        for row in range(3):
            prefill(made, row)
        if others is not None:
            made.steerer.write(0, made.steerer.prepare(others))
            made.steerer.write(2, made.steerer.prepare(others))
        outputs.append(decode(made, [5, 6, 7], len(PROMPT)))
    assert torch.equal(outputs[0][1], outputs[1][1])
    assert torch.equal(outputs[0][1], outputs[2][1])
    assert not torch.equal(outputs[0][0], outputs[1][0])


def test_edits_that_change_nothing_change_no_bit(make_model, dictionary, steer) -> None:
    nothing = steer((3, "add", 0.0), (4, "scale", 1.0), (5, "at_least", -1.0))
    plain, edited = runner(make_model(), dictionary), runner(make_model(), dictionary)
    edited.steerer.write(0, edited.steerer.prepare(nothing))
    assert torch.equal(prefill(plain, 0), prefill(edited, 0))


@pytest.mark.parametrize("decoding", [False, True])
def test_keep_norm_keeps_the_length_of_each_vector_of_its_row_alone(
    make_model, dictionary, steer, decoding
) -> None:
    model = make_model()
    made = runner(model, dictionary)
    seen: list[Tensor] = []
    model.model.layers[1].register_forward_hook(lambda *a: seen.append(a[2].clone()))
    loud = steer((3, "add", 8.0))

    def run() -> Tensor:
        spans = [Span(row, 0, PROMPT, (True,) * len(PROMPT), True) for row in range(2)]
        made.forward(Batch(0, [], [], [], tuple(spans)))
        if decoding:
            decode(made, [5, 6], len(PROMPT))
        return seen.pop().norm(dim=-1)[0].view(2, -1)

    before = run()
    made.steerer.write(0, made.steerer.prepare(replace(loud, keep_norm=True)))
    made.steerer.write(1, made.steerer.prepare(loud))
    after = run()
    torch.testing.assert_close(after[0], before[0])
    assert (after[1] - before[1]).abs().min() > 0.1
    made.steerer.write(0, made.steerer.prepare(loud))
    assert (run()[0] - before[0]).abs().min() > 0.1, "and no longer than it is asked for"


def test_prefill_and_decode_steer_alike(make_model, dictionary, some) -> None:
    """A prompt in one piece, in chunks, and its last tokens one at a time: the same logits."""
    whole, cut, stepped = (runner(make_model("gemma3"), dictionary) for _ in range(3))
    for made in (whole, cut, stepped):
        made.steerer.write(0, made.steerer.prepare(some))
    expected = prefill(whole, 0)
    torch.testing.assert_close(prefill(cut, 0, cut=3), expected, atol=1e-5, rtol=1e-5)
    prefill(stepped, 0, PROMPT[:12])
    for position in range(12, len(PROMPT)):
        last = decode(stepped, [PROMPT[position]], position)[0]
    torch.testing.assert_close(last, expected, atol=1e-5, rtol=1e-5)


def test_where_is_decided_by_absolute_position(make_model, dictionary, steer) -> None:
    def run(where: str) -> tuple[Tensor, Tensor]:
        made = runner(make_model(), dictionary)
        made.steerer.write(0, made.steerer.prepare(steer((3, "clamp", 6.0, where))))
        return prefill(made, 0, cut=7), decode(made, [5], len(PROMPT))[0]

    plain = runner(make_model(), dictionary)
    unsteered = prefill(plain, 0, cut=7), decode(plain, [5], len(PROMPT))[0]
    prompt, generated, everywhere = run("prompt"), run("generated"), run("all")
    assert torch.equal(generated[0], unsteered[0])
    assert not torch.allclose(generated[1], unsteered[1])
    assert torch.equal(prompt[0], everywhere[0])
    assert not torch.allclose(prompt[1], everywhere[1])
    assert not torch.allclose(prompt[1], unsteered[1]), "it saw a steered prompt"


def test_template_and_special_tokens_are_never_touched(make_model, dictionary, some) -> None:
    made, plain = runner(make_model(), dictionary), runner(make_model(), dictionary)
    made.steerer.write(0, made.steerer.prepare(some))
    assert torch.equal(prefill(made, 0, flags=(False,) * len(PROMPT)), prefill(plain, 0))
    special = Batch(0, [5], [len(PROMPT)], [False], ())
    assert torch.equal(made.forward(special), decode(plain, [5], len(PROMPT)))
    one = tuple(i == 4 for i in range(len(PROMPT)))
    assert not torch.allclose(prefill(made, 0, flags=one), prefill(plain, 0))


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


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("hook", SITES)
def test_every_site_is_the_tensor_its_name_says(
    family, hook, make_model, make_dictionary, steer
) -> None:
    """`add` at a site moves the logits as adding the decoder row to that tensor by hand does."""
    d_in = 32  # heads * head_dim is as wide as the residual stream in all three
    dictionary = make_dictionary(hook=hook, d_in=d_in)
    made = runner(make_model(family), dictionary)
    made.steerer.write(0, made.steerer.prepare(steer((3, "add", 2.5))))
    got = prefill(made, 0)

    push = 2.5 * dictionary.rows([3]).dec[0]
    model = make_model(family)
    layer = (model.transformer.h if family == "gpt2" else model.model.layers)[1]
    attention = layer.attn if family == "gpt2" else layer.self_attn
    out = attention.c_proj if family == "gpt2" else attention.o_proj

    def add_in(_module: Any, args: Any) -> Any:
        return (args[0] + push, *args[1:])

    def add_out(_module: Any, _args: Any, out: Any) -> Any:
        return (out[0] + push, *out[1:]) if isinstance(out, tuple) else out + push

    if hook == "resid_pre":
        layer.register_forward_pre_hook(add_in)
    elif hook == "resid_post":
        layer.register_forward_hook(add_out)
    elif hook == "hook_z":
        out.register_forward_pre_hook(add_in)
    elif hook in ("attn_out", "resid_mid"):  # adding to either adds to resid_mid
        after = layer.post_attention_layernorm if family == "gemma2" else attention
        after.register_forward_hook(add_out)
    else:
        after = layer.post_feedforward_layernorm if family == "gemma2" else layer.mlp
        after.register_forward_hook(add_out)
    expected = model(torch.tensor([PROMPT])).logits[0, -1]
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)


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


def test_a_model_without_the_point_says_so(make_model, make_dictionary) -> None:
    with pytest.raises(Unsteerable, match="side by side: it has no resid_mid"):
        runner(make_model("gpt_neox"), make_dictionary(hook="resid_mid"))


def test_a_dictionary_of_another_model_is_refused_with_both_numbers(
    make_model, make_dictionary
) -> None:
    with pytest.raises(Unsteerable, match="48 numbers, but the model's residual stream has 32"):
        runner(make_model(), make_dictionary(d_in=48))
    with pytest.raises(Unsteerable, match="layer 7 resid_post, but the model has layers 0 to 2"):
        runner(make_model(), make_dictionary(layer=7))
    with pytest.raises(Unsteerable, match=r"hook_z has vectors of 48 .* 32 wide"):
        runner(make_model(), make_dictionary(hook="hook_z", d_in=48))


def test_a_model_that_slots_do_not_reproduce_is_refused(make_model) -> None:
    model = make_model()
    model.model.layers[0].self_attn.layer_idx = 1
    model.model.layers[1].self_attn.layer_idx = 0
    with pytest.raises(SteerdeckError, match="no list of 3 decoder layers"):
        runner(model)
    model = make_model()
    attention = model.model.layers[1].self_attn
    plain = attention.forward

    def drifting(*args: Any, **kwargs: Any) -> Any:
        if model.config._attn_implementation == "steerdeck":
            kwargs["position_embeddings"] = tuple(2 * e for e in kwargs["position_embeddings"])
        return plain(*args, **kwargs)

    attention.forward = drifting
    with pytest.raises(SteerdeckError, match="differs from its own forward pass"):
        runner(model)


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


def test_a_steering_is_read_from_its_dictionary_once_however_often_it_comes(
    make_model, dictionary, some, steer, monkeypatch
) -> None:
    made = runner(make_model(), dictionary)
    read: list[int] = []
    rows = dictionary.rows
    monkeypatch.setattr(dictionary, "rows", lambda ids: (read.extend(ids), rows(ids))[1])
    first = made.steerer.prepare(some)
    again = made.steerer.prepare(steer(*((e.feature, e.op, e.strength) for e in some.edits)))
    assert again is first
    assert read == [edit.feature for edit in some.edits]
    made.steerer.prepare(steer((3, "clamp", 7.0)))
    assert read[len(some.edits) :] == [3]


def test_a_row_moves_with_its_keys_and_its_steering(make_model, dictionary, some) -> None:
    made, still = runner(make_model(), dictionary), runner(make_model(), dictionary)
    for one, row in ((made, 2), (still, 0)):
        one.steerer.write(row, one.steerer.prepare(some))
        prefill(one, row)
    made.move(2, 0, len(PROMPT))
    expected = decode(still, [5], len(PROMPT))
    assert torch.equal(decode(made, [5], len(PROMPT)), expected)


def test_table_rows_are_neutral_until_written_and_after_they_are_cleared(dictionary) -> None:
    table = Table(3, 4, dictionary.info.d_in, torch.device("cpu"))
    fresh = [table.enc.clone(), table.dec.clone(), table.numbers.clone(), table.adds.clone()]
    edits = [FeatureEdit("tiny", i, op, 2.0, op.edit(2.0)) for i, op in enumerate(list(Op))]
    wide, narrow = (
        entries(dictionary.rows([e.feature for e in part]), part)
        for part in (edits[:4], edits[4:5])
    )
    table.write(1, wide)
    assert table.width == 4
    table.write(1, narrow)
    assert table.width == 1
    only_narrow = Table(3, 4, dictionary.info.d_in, torch.device("cpu"))
    only_narrow.write(1, narrow)
    for name in ("enc", "dec", "numbers", "adds"):
        assert torch.equal(getattr(table, name), getattr(only_narrow, name))
    table.write(1, None)
    now = [table.enc, table.dec, table.numbers, table.adds]
    assert all(map(torch.equal, now, fresh))


def test_a_view_follows_rows_that_are_rewritten_in_place(dictionary) -> None:
    table = Table(2, 4, dictionary.info.d_in, torch.device("cpu"))
    ops = list(Op)
    edits = [FeatureEdit("tiny", 7, op, 2.0, op.edit(2.0)) for op in ops]
    table.write(0, entries(dictionary.rows([7]), edits[:1]))
    view = table.view(slice(0, 2), Phase.GENERATED)
    table.write(0, entries(dictionary.rows([7]), edits[1:2]))
    assert table.view(slice(0, 2), Phase.GENERATED) is view
    assert (view.edits.scale[0].item(), view.edits.shift[0].item()) == (0.0, 2.0)
    assert not view.adds[0].item()


def test_the_context_ends_where_positions_would_stop_being_a_rows_own() -> None:
    """LongRoPE looks at the whole batch, and chunked attention forgets what lies a chunk back."""
    phi = Phi3Config(
        max_position_embeddings=256,
        original_max_position_embeddings=64,
        rope_scaling={"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
        hidden_size=32,
        num_attention_heads=4,
    )
    assert longest_context(phi) == 64
    llama4 = Llama4TextConfig(max_position_embeddings=512, attention_chunk_size=128)
    assert longest_context(llama4) == 128
    assert longest_context(Llama4TextConfig(max_position_embeddings=64)) == 64


def test_the_context_ends_at_a_window_that_attention_is_not_told_of(make_engine) -> None:
    """Slots ignore masks, and in Qwen2-MoE the window is nowhere else."""

    def context(windowed: bool) -> int:
        experts = {"num_experts": 4, "moe_intermediate_size": 16}
        config = Qwen2MoeConfig(**SMALL, **experts, use_sliding_window=windowed, sliding_window=16)
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        return int(make_engine(model=model, dictionaries=()).capabilities.max_context)

    assert (context(True), context(False)) == (16, 512)
    assert make_engine("qwen3", dictionaries=()).capabilities.max_context == 512, "told"


@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}),
        ("stablelm", {}),  # does not hand arguments on to attention
        ("cohere2", {"sliding_window": 4}),
        ("olmo2", {}),
    ],
)
def test_other_families_run_over_slots_too(family, extra) -> None:
    """Sinks, windows and odd wiring: the runner itself compares with the plain forward pass."""
    config = AutoConfig.for_model(
        family,
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        **extra,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 or "sinks" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    assert prefill(runner(model), 0).isfinite().all()
