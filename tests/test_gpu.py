"""Replies on every device that `device=auto` takes: `pytest -m gpu` where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dictionaries.dictionary import Dictionary
from dictionaries.edits import EditTable
from dictionaries.edits import steer as steer_by_formula
from server.engine.load import load_model
from server.engine.types import Request


@pytest.fixture
def load(make_model, tokenizer, device: str, tmp_path: Path) -> Callable[[], Any]:
    """The tiny Llama off a disk, a new one each time: an engine keeps what it is given."""
    make_model().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return lambda: load_model(tmp_path, device=device)[0]


def generate_by_hand(model: Any, dictionary: Dictionary, request: Request) -> list[int]:
    """Greedy tokens, each from a whole forward pass; the formula steers its layer on the CPU.

    Tokens from 256 on are special: nothing is edited there.
    """
    ids, steerable = list(request.prompt), list(request.steerable)
    edits, keep = request.steering.edits, torch.tensor(request.steering.keep_norm)
    rows = dictionary.rows([edit.feature for edit in edits])
    table = EditTable.of([edit.edit for edit in edits])

    def hook(_module: Any, _args: Any, x: Tensor) -> Tensor:
        plain, at = x.cpu(), torch.tensor(steerable)[:, None]
        steered = steer_by_formula(plain, rows, table, norm=dictionary.info.norm, keep_norm=keep)
        return torch.where(at, steered, plain).to(x.device)

    model.model.layers[dictionary.info.site.layer].register_forward_hook(hook)
    for _ in range(request.sampling.max_tokens):
        logits = model(input_ids=torch.tensor([ids], device=model.device)).logits
        ids.append(int(logits[0, -1].argmax()))
        steerable.append(ids[-1] < 256)
    return ids[len(request.prompt) :]


async def test_replies_are_those_of_a_layer_that_is_steered_by_hand(
    load, device, make_engine, dictionary, ask, hear, steer
) -> None:
    clamped = steer((3, "clamp", 16.0), (21, "at_least", 12.0))
    requests = [
        ask(),
        ask(steering=clamped),
        replace(ask("Somebody else's bridge.", steering=clamped), kl=True),
        ask(steering=replace(clamped, keep_norm=True)),
    ]
    engine = make_engine(model=load(), max_rows=5)
    assert engine.capabilities.device.partition(":")[0] == device
    replies = await hear(engine, *requests)
    for request, reply in zip(requests, replies, strict=True):
        assert reply.ids == generate_by_hand(load(), dictionary, request)
    assert len({tuple(reply.ids) for reply in replies}) == 4, "each steering must do something"
    assert max(token.contrast.kl for token in replies[2].tokens) > 0.1
