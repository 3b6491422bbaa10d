"""What CUDA graphs and fused layers may change of what an engine says on a GPU."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
from runner_passes import runner
from tiny import tiny_model

from server.engine.batch import Batch
from server.engine.sampling import invert
from server.engine.types import Change, Sampling

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
    _, without = replies("cuda", graphs=False)
    assert found == without
    assert found == replies("cpu")[1]
    graphs = captured._runner._graphs
    assert graphs is not None
    assert graphs.on
    assert len(graphs._kept) > 1, "more than the step that is captured at start"


def test_in_bfloat16_it_is_as_near_to_float32_as_transformers_is() -> None:
    """Its kernels round in other places, not worse ones."""
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU that torch can use")
    rows, length = 3, 40
    ids = torch.randint(8, 200, (rows, length), generator=torch.Generator().manual_seed(1)).cuda()
    plain = tiny_model().to("cuda", torch.bfloat16)
    theirs = plain(ids, use_cache=False).logits.float()
    exact = plain.float()(ids, use_cache=False).logits
    made = runner(tiny_model().to("cuda", torch.bfloat16), threads=1, graphs=True)
    ours = []
    for at in range(length):
        tokens = ids[:, at].tolist()
        batch = Batch(0, tokens, [at] * rows, [True] * rows, ())
        ours.append(made.forward(batch).float().clone())
    assert made._graphs is not None
    assert made._graphs.on
    error = (torch.stack(ours, 1) - exact).norm() / exact.norm()
    assert error <= 1.25 * (theirs - exact).norm() / exact.norm()


def test_tokens_are_drawn_on_a_gpu_as_on_a_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU that torch can use")
    logits = 3 * torch.randn(64, 130_000, generator=torch.Generator().manual_seed(0))
    numbers = np.random.default_rng(0).random(64)
    for one in (Sampling(), Sampling(temperature=0.5, top_p=0.9), Sampling(top_k=40, min_p=0.02)):
        drawn = invert(logits.cuda(), [one] * 64, numbers)
        assert (
            sum(a == b for a, b in zip(drawn, invert(logits, [one] * 64, numbers), strict=True))
            > 62
        )
