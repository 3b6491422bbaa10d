"""Compiled layers: the tokens of the eager ones, whenever they come and whatever is steered."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sent_vectors import CALM, edit, vector

from server.engine.compiled import store
from server.engine.compiled.store import Store
from server.engine.sites import decoder_layers
from server.engine.types import Change, Request, Steering

pytestmark = pytest.mark.timeout(600)  # a compiler on a busy machine


def compile_into(folder: Path, model: Any, tokenizer: Any, dictionaries: Any) -> str:
    """Have an engine compile the model's layers; what became of it."""
    from server.engine.engine import SlotEngine

    engine = SlotEngine(model, tokenizer, dictionaries, max_rows=2, compiled=folder)
    engine._runner._compilation._thread.join()
    engine._runner._compilation.swap()
    engine.close()
    return engine.compilation


def until_on(engine: Any) -> None:
    """Its layers run compiled, without anybody asking it for a reply."""
    deadline = time.monotonic() + 30
    while engine.compilation != "on":
        assert time.monotonic() < deadline, engine.compilation
        time.sleep(0.01)


@pytest.fixture(scope="module")
def folder(make_model, tokenizer, dictionary, tmp_path_factory) -> Path:
    """The tiny Llama's layers, really compiled."""
    where = tmp_path_factory.mktemp("compiled")
    assert compile_into(where, make_model(), tokenizer, {"tiny": dictionary}) == "on"
    return where


@pytest.fixture
def requests(ask: Callable[..., Request], steer: Callable[..., Steering]) -> list[Request]:
    """Without edits, with one, with eight of every kind, steered anew on the way, keep_norm, and a
    vector where no dictionary is.
    """
    ops = ["clamp", "add", "scale", "ablate", "at_least", "at_most", "clamp", "add"]
    eight = steer(*((3 + 5 * i, op, 2.0 + i) for i, op in enumerate(ops)))
    other = steer((9, "clamp", 6.0), (30, "add", 3.0), keep_norm=True)
    one = steer((4, "clamp", 5.0))
    return [
        ask("Somebody else's bridge."),
        ask("The bridge is red.", steering=one),
        ask("The fog comes in over the bridge, and nobody sees the water.", steering=eight),
        ask("A cat.", steering=one, changes=(Change(3, eight), Change(7, other))),
        ask("Warm.", steering=other, temperature=0.8, seed=5),
        ask("Of my own.", steering=Steering((edit(vector(CALM, 2), 8.0),))),
    ]


async def test_compiled_layers_say_what_eager_ones_say(
    folder, make_engine, hear, requests, monkeypatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("what is kept need not be compiled again")

    monkeypatch.setattr(Store, "make", never)
    eager = await hear(make_engine(max_rows=4), *requests)
    engine = make_engine(max_rows=4, compiled=folder)
    assert engine.compilation == "on"
    compiled = await hear(engine, *requests)
    assert [reply.ids for reply in compiled] == [reply.ids for reply in eager]
    assert {reply.end.arithmetic for reply in eager} == {("eager",)}
    assert {reply.end.arithmetic for reply in compiled} == {("compiled",)}


async def test_a_text_is_scored_by_what_compiled_layers_put_out(
    folder, make_engine, ask, hear, steer
) -> None:
    one = ask("The fog comes in.", steering=steer((3, "clamp", 12.0)), logprobs=2, max_tokens=0)
    eager, compiled = [
        (await hear(make_engine(max_rows=4, chunk=7, **options), replace(one, echo=True)))[0].end
        for options in ({}, {"compiled": folder})
    ]
    assert (eager.arithmetic, compiled.arithmetic) == (("eager",), ("compiled",))
    told, expected = (
        [[token.logprob, *(one.logprob for one in token.top)] for token in end.prompt[1:]]
        for end in (compiled, eager)
    )
    torch.testing.assert_close(torch.tensor(told), torch.tensor(expected), atol=1e-4, rtol=1e-4)


async def test_the_same_code_serves_in_eight_bits(
    folder, make_engine, hear, requests, ask, steer, monkeypatch
) -> None:
    monkeypatch.setattr("server.engine.linear.WORTH", 0)
    requests += [ask(), ask(steering=steer((3, "clamp", 12.0)), trace=True)]
    eager = await hear(make_engine(max_rows=4, weights="int8"), *requests)
    engine = make_engine(max_rows=4, weights="int8", compiled=folder)
    assert engine.compilation == "on"
    compiled = await hear(engine, *requests)
    assert {reply.end.arithmetic for reply in compiled} == {("compiled",)}
    for one, other in zip(compiled, eager, strict=True):
        # a number on the edge of a step may fall to either side, and a tie of two tokens with it
        assert sum(a == b for a, b in zip(one.ids, other.ids, strict=True)) > 6  # of 12 tokens
    unsteered, clamped = compiled[-2:]
    assert clamped.ids != unsteered.ids
    assert {reading.after for token in clamped.tokens for reading in token.readings} == {12.0}


def test_layers_that_read_the_same_are_one_product(folder, make_engine, monkeypatch) -> None:
    """Queries, keys and values; the output; gate and up; down: each once a pass."""
    monkeypatch.setattr("server.engine.linear.WORTH", 0)
    runner = make_engine(weights="int8", compiled=folder)._runner
    compiled = decoder_layers(runner.model)[0].forward
    made: list[int] = []

    def counted(which: int, product: Any) -> Any:
        return lambda x: [made.append(which), product(x)][1]

    products = [counted(*one) for one in enumerate(compiled._opaque.products)]
    compiled._opaque = compiled._opaque._replace(products=tuple(products))
    runner.slotted.short_pass()
    assert sorted(made) == [0, 1, 2, 3]


async def test_compiled_layers_come_in_the_middle_of_replies(
    folder, make_engine, make_model, hear, requests, tmp_path, monkeypatch
) -> None:
    expected = await hear(make_engine(max_rows=4), *requests)
    wanted, passes = threading.Event(), 0

    def make(self: Store, kinds: Any) -> None:
        assert wanted.wait(30)
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1
        if passes == 6:
            wanted.set()
            engine._runner._compilation._thread.join()

    monkeypatch.setattr(Store, "make", make)
    model = make_model()
    engine = make_engine(model=model, max_rows=4, compiled=tmp_path)
    assert engine.compilation == "running"
    model.get_input_embeddings().register_forward_pre_hook(count)
    heard = await hear(engine, *requests)
    assert engine.compilation == "on"
    assert [reply.ids for reply in heard] == [reply.ids for reply in expected]
    assert heard[0].end.arithmetic == ("eager", "compiled")


async def test_compiled_layers_come_to_an_idle_engine(
    folder, make_engine, hear, requests, tmp_path, monkeypatch
) -> None:
    """Whoever waits for them asks for nothing meanwhile."""
    wanted = threading.Event()

    def make(self: Store, kinds: Any) -> None:
        assert wanted.wait(30)
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)

    monkeypatch.setattr(Store, "make", make)
    engine = make_engine(max_rows=4, compiled=tmp_path)
    assert engine.compilation == "running"
    wanted.set()
    until_on(engine)
    heard = await hear(engine, *requests)
    assert {reply.end.arithmetic for reply in heard} == {("compiled",)}


async def test_a_failing_compiler_is_told_and_replies_go_on(
    make_engine, hear, requests, tmp_path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(store.sys, "executable", shutil.which("false"))
    engine = make_engine(max_rows=4, compiled=tmp_path)
    engine._runner._compilation._thread.join()
    assert engine.compilation == "failed"
    assert "layers are not compiled" in caplog.text
    monkeypatch.undo()
    heard = await hear(engine, *requests)
    assert [reply.ids for reply in heard] == [
        reply.ids for reply in await hear(make_engine(max_rows=4), *requests)
    ]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("hook", ["attn_out", "hook_z"])
def test_a_layer_that_is_steered_inside_is_left_alone(
    folder, make_engine, make_dictionary, make_model, hook
) -> None:
    model = make_model()
    inside = make_dictionary("inside", hook=hook, d_in=32)
    engine = make_engine(model=model, dictionaries=(inside,), compiled=folder)
    assert engine.compilation == "on"
    put = ["forward" in vars(layer) for layer in model.model.layers]
    assert put == [True, False, True]


def test_a_damaged_file_is_compiled_again(folder, make_engine, tmp_path, monkeypatch) -> None:
    made: list[Any] = []

    def make(self: Store, kinds: Any) -> None:
        made.extend(kinds)
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)

    monkeypatch.setattr(Store, "make", make)
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:1000])
    engine = make_engine(compiled=tmp_path)
    engine._runner._compilation._thread.join()
    until_on(engine)
    assert len(made) == 1


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gemma3", "qwen3", "gpt_neox"])
async def test_every_family_says_the_same_compiled(
    family, make_engine, make_model, tokenizer, dictionary, hear, requests, tmp_path
) -> None:
    assert compile_into(tmp_path, make_model(family), tokenizer, {"tiny": dictionary}) == "on"
    eager = await hear(make_engine(family, max_rows=4), *requests)
    compiled = await hear(make_engine(family, max_rows=4, compiled=tmp_path), *requests)
    assert [reply.ids for reply in compiled] == [reply.ids for reply in eager]
    assert {reply.end.arithmetic for reply in compiled} == {("compiled",)}
