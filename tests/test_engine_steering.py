"""Tables and hooks inside the engine: where edits act, and to the bit where bits are promised."""

from __future__ import annotations

from dataclasses import replace

import pytest
import runner_passes
import torch
from runner_passes import PROMPT, decode, prefill, runner
from torch import Tensor

from dictionaries.edits import Op
from server.engine.batch import Batch, Span
from server.engine.tables import Phase, Table, entries
from server.engine.types import FeatureEdit

some = runner_passes.some  # fixture


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
