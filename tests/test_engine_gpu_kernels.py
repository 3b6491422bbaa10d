"""Triton's kernels give what torch's operators give: `pytest -m gpu` where there is a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from server.engine.attention import SlotStep
from server.engine.batch import Batch
from server.engine.cache import SlotCache
from server.engine.gpu import plain

pytestmark = pytest.mark.gpu
TYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def kernels() -> Any:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU that torch can use")
    pytest.importorskip("triton")
    from server.engine.gpu import kernels

    return kernels


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, device="cuda").to(dtype)


def near(got: Tensor, expected: Tensor) -> None:
    most = 1e-5 if got.dtype == torch.float32 else 1e-2
    assert got.dtype == expected.dtype
    assert (got.float() - expected.float()).norm() <= most * expected.float().norm()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [32, 96, 4096])
def test_norms_and_gates(kernels, dtype, width) -> None:
    x, weight = random(1, 3, 2 * width, dtype=dtype), random(2 * width, dtype=dtype)
    near(kernels.rms_norm(x, weight, 1e-5), plain.rms_norm(x, weight, 1e-5))
    near(kernels.gated(x), plain.gated(x))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("shape", "rows"), [((32, 8, 128), 3), ((4, 2, 8), 2), ((12, 2, 64), 5)])
@pytest.mark.parametrize("window", [None, 7, 200])
def test_a_row_turns_its_heads_keeps_its_keys_and_attends_to_them(
    kernels, dtype, shape, rows, window
) -> None:
    """Of different lengths, and not the first rows of the slots."""
    heads, kv_heads, dim = shape
    positions = [299, 0, 130, 64, 7][:rows]
    batch = Batch(1, [0] * rows, positions, [True] * rows, ())
    step = SlotStep(SlotCache(rows + 1, 300), batch, torch.device("cuda"))
    made = random(rows, heads + 2 * kv_heads, dim, dtype=dtype)
    angles = torch.rand(rows, dim, device="cuda") * 6
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    slots = [random(rows + 1, kv_heads, 300, dim, dtype=dtype) for _ in range(2)]
    found = []
    for ops in (kernels, plain):
        keys, values = (own.clone() for own in slots)
        query = ops.turned(made, cos, sin, keys, values, step)
        out = ops.attend(query, keys, values, step, window, dim**-0.5)
        found.append((query, keys, values, out))
    for got, expected in zip(*found, strict=True):
        near(got, expected)
    assert torch.equal(found[0][2], found[1][2])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("biased", [False, True])
def test_products_of_a_single_row(kernels, dtype, biased) -> None:
    x, weight = random(1, 1, 3000, dtype=dtype), random(701, 3000, dtype=dtype)
    bias = random(701, dtype=dtype) if biased else None
    for product in kernels.SINGLE:
        near(product(x, weight, bias), torch.nn.functional.linear(x, weight, bias))
