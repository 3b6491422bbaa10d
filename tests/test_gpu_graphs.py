"""Greedy replies of an engine on a GPU are the same with CUDA graphs as without."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from tiny import tiny_model

from server.engine.types import Change

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gemma3", "qwen3"])
def test_replies_with_graphs_are_those_without(family, make_engine, ask, hear, steer) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU that torch can use")
    clamped, other = steer((3, "clamp", 16.0), (21, "at_least", 12.0)), steer((5, "clamp", 12.0))
    requests = [
        ask(max_tokens=60),
        ask(steering=clamped, max_tokens=50),
        ask("A longer beginning than the others have.", steering=clamped, trace=True),
        ask(steering=clamped, changes=(Change(9, other),), max_tokens=40),
    ]

    def replies(device: str, **options: Any) -> tuple[Any, list[list[int]]]:
        engine = make_engine(model=tiny_model(family).to(device), max_rows=3, **options)
        return engine, [one.ids for one in asyncio.run(hear(engine, *requests))]

    captured, found = replies("cuda", graphs=True)
    _, without = replies("cuda")
    assert found == without
    assert found == replies("cpu")[1]
    graphs = captured._runner._graphs
    assert graphs is not None
    assert graphs.on
    assert len(graphs._kept) > 1, "more than the step that is captured at start"
