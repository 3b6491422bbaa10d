"""A training that is stopped goes on to the same bits; a finished one is not begun again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import making_trained
import pytest
import torch
from making_trained import ORIGIN, PLAN, text
from safetensors.torch import load_file

from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
from dictionaries.making import train_run
from dictionaries.making.feed import held_out
from dictionaries.making.text import windows
from dictionaries.making.train import train
from server.model_subject import ModelSubject

model, tiny, made = making_trained.model, making_trained.tiny, making_trained.made  # fixtures


class Stopped(Exception):
    pass


def stopping_after(tokens: int) -> Callable[..., Any]:
    """A `showing` that ends the training there."""

    @contextmanager
    def stopping(what: str, total: float, unit: str) -> Iterator[Callable[[float, str], None]]:
        def advance(done: float, note: str) -> None:
            if done > tokens:
                raise Stopped

        yield advance

    return stopping


def test_a_stopped_training_goes_on_and_ends_with_the_same_bits(made, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(train_run, "_CHECKPOINT", 0.0)
    out = tmp_path / "sae"
    with pytest.raises(Stopped):
        train(tiny, text, PLAN, out, ORIGIN, showing=stopping_after(15_000))
    assert not out.exists()
    with pytest.raises(DictionaryError, match=r"begun with other options \(k 8\)"):
        train(tiny, text, replace(PLAN, k=9), out, ORIGIN)
    train(tiny, text, PLAN, out, ORIGIN)
    one, other = (load_file(d / "sae_weights.safetensors") for d in (out, made[0]))
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("in_round", [1, 2])
def test_an_interrupted_training_keeps_every_whole_round_and_says_how_far(
    in_round, made, tiny, tmp_path
):
    """Though less than a checkpoint's time has gone by; and it ends with the same bits."""
    out = tmp_path / "sae"

    @contextmanager
    def interrupting(what: str, total: float, unit: str) -> Iterator[Callable[[float, str], None]]:
        def advance(done: float, note: str) -> None:
            if note.startswith("reading 3") and done >= 5_000 * in_round:
                raise KeyboardInterrupt

        yield advance

    with pytest.raises(KeyboardInterrupt, match=rf"goes on after {5_888 * in_round:,} tokens"):
        train(tiny, text, PLAN, out, ORIGIN, showing=interrupting)
    train(tiny, text, PLAN, out, ORIGIN)
    one, other = (load_file(d / "sae_weights.safetensors") for d in (out, made[0]))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_interrupted_in_a_rounds_steps_or_before_any_it_says_what_is_kept(tiny, tmp_path):
    """Steps cannot be undone, so that the state is the one of the round before."""

    @contextmanager
    def at(what: str, total: float, unit: str) -> Iterator[Callable[[float, str], None]]:
        def advance(done: float, note: str) -> None:
            if done == stop and note.startswith(begins):
                raise KeyboardInterrupt

        yield advance

    stop, begins = 0.0, "reading"
    with pytest.raises(KeyboardInterrupt, match="begins anew"):
        train(tiny, text, PLAN, tmp_path / "sae", ORIGIN, showing=at)
    assert not (tmp_path / "sae.work").exists()
    stop, begins = 5_888 + 512, "loss"
    with pytest.raises(KeyboardInterrupt, match="goes on after 5,888 tokens"):
        train(tiny, text, PLAN, tmp_path / "sae", ORIGIN, showing=at)


def test_a_finish_on_what_it_costs_costs_less_and_goes_on_where_it_stopped(
    made, tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(train_run, "_CHECKPOINT", 0.0)
    plan = replace(PLAN, end_to_end=0.5)
    one, other = tmp_path / "one", tmp_path / "other"
    train(tiny, text, plan, one, ORIGIN)
    with pytest.raises(Stopped):
        train(tiny, text, plan, other, ORIGIN, showing=stopping_after(24_000))
    train(tiny, text, plan, other, ORIGIN)
    tensors = [load_file(d / "sae_weights.safetensors") for d in (one, other)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert paid(tiny, one) < 0.95 * paid(tiny, made[0])


def paid(tiny: ModelSubject, folder: Path) -> float:
    """What a dictionary's reconstructions of held-out text cost."""
    opened, total = open_dictionary(folder), 0.0
    for batch in windows(held_out(text), tiny.tokenizer, context=32, rows=4, rest=True):
        x, cost = tiny.costed(batch, lambda x: torch.ones(len(x), dtype=torch.bool))
        assert cost(x).item() == pytest.approx(0.0, abs=1e-6)
        total += cost(opened.decode(opened.encode(x), x)).item()
    return total


def test_a_stop_while_measuring_does_not_train_again(tiny, tmp_path):
    plan, out = replace(PLAN, tokens=1_000), tmp_path / "sae"
    told: list[float] = []

    @contextmanager
    def stopping(what: str, total: float, unit: str) -> Iterator[Callable[[float, str], None]]:
        if what == "measuring":
            raise Stopped
        yield lambda done, note: told.append(done)

    for _ in range(2):
        told.clear()
        with pytest.raises(Stopped):
            train(tiny, text, plan, out, ORIGIN, showing=stopping)
    assert told == [plan.tokens]
    less = train(tiny, text, replace(plan, measured=200), out, ORIGIN)
    assert less["trained_tokens"] >= plan.tokens
    assert 200 <= less["tokens"] < 400


def test_a_finished_training_is_not_begun_again_and_others_work_is_not_overwritten(
    made, tiny, tmp_path
):
    out, metrics, _ = made

    def gone() -> Iterator[str]:
        raise AssertionError("the text was opened")

    assert train(tiny, gone, PLAN, out, ORIGIN) == metrics
    with pytest.raises(DictionaryError, match=r"other options \(seed 0\)"):
        train(tiny, gone, replace(PLAN, seed=1), out, ORIGIN)
    with pytest.raises(DictionaryError, match=r"other options \(field text\)"):
        train(tiny, gone, PLAN, out, replace(ORIGIN, field="body"))
    with pytest.raises(DictionaryError, match=r"other options \(model_revision None\)"):
        train(tiny, gone, PLAN, out, replace(ORIGIN, revision="of a model of the same name"))
    with pytest.raises(DictionaryError, match=r"other options \(the text as it was then\)"):
        train(tiny, gone, PLAN, out, replace(ORIGIN, state="of a file that was added"))
    held_out_by_place = {k: v for k, v in metrics["made"].items() if k != "split"}
    (tmp_path / "metrics.json").write_text(json.dumps({"made": held_out_by_place}))
    with pytest.raises(DictionaryError, match=r"other options \(split None\)"):
        train(tiny, gone, PLAN, tmp_path, ORIGIN)


def test_a_dictionary_made_elsewhere_is_not_overwritten(tiny, make_dictionary):
    with pytest.raises(DictionaryError, match="was not made here"):
        train(tiny, text, PLAN, make_dictionary("elsewhere").path, ORIGIN)
