"""Edits of a plain dictionary by our own code: torch's arithmetic, and a token's own affair."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dictionaries.edits import Norm
from server.engine.hook import SiteHook
from server.engine.mount import Mount
from server.engine.native.build import able
from server.engine.part import Part
from server.engine.tables import Phase

pytestmark = pytest.mark.skipif(not able(), reason="our own code cannot be compiled here")
ROWS = 6
EVERY_OP = [(0, "clamp", 3.0), (1, "add", -2.0), (2, "scale", 1.7), (3, "ablate", 0.0)]
EVERY_OP += [(4, "at_least", 1.5), (5, "at_most", 0.2)]


@pytest.fixture(params=["own", "torch"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[32, 37])
def hook(make_dictionary: Any, steer: Any, request: pytest.FixtureRequest) -> SiteHook:
    """Of rows with every op, none, an add, on the reply only, on the prompt only, and many."""
    torch.manual_seed(0)
    mount = Mount(make_dictionary(d_in=request.param), ROWS, 16, torch.device("cpu"))
    steerings = [
        steer(*EVERY_OP),
        None,
        steer((7, "add", 4.0)),
        steer((8, "clamp", 2.0, "generated"), (1, "at_least", 9.0)),
        steer((8, "clamp", 2.0, "prompt")),
        steer(*((i, "scale", 3.0) for i in range(10))),
    ]
    for row, steering in enumerate(steerings):
        if steering is not None:
            mount.table.write(row, mount.prepare(steering.edits))
    return SiteHook([mount])


def part(phase: Phase, tokens: int, *, traced: bool = False, some: bool = False) -> Part:
    rows = slice(0, tokens) if phase is Phase.GENERATED else slice(3, 4)
    shape = (tokens, 1, 1) if phase is Phase.GENERATED else (1, tokens, 1)
    flags = torch.rand(shape) > 0.4 if some else None
    keep = torch.arange(rows.stop - rows.start).view(-1, 1, 1) % 2 == 0 if some else None
    return Part(slice(0, tokens), rows, phase, flags, keep, traced)


def edited(hook: SiteHook, x: Tensor, *parts: Part, own: bool = True) -> tuple[Tensor, Any]:
    [mount] = hook.mounts
    mount.plain, hook.parts = own, parts
    mount.begin()
    return hook(x), dict(mount.readings)


@pytest.mark.parametrize("some", [False, True])
@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(("phase", "tokens"), [(Phase.GENERATED, ROWS), (Phase.PROMPT, 11)])
def test_it_is_torchs_arithmetic(hook, phase: Phase, tokens: int, traced: bool, some: bool) -> None:
    x = 2 * torch.randn(1, tokens, hook.mounts[0].info.width)
    given = part(phase, tokens, traced=traced, some=some)
    found, expected = edited(hook, x, given), edited(hook, x, given, own=False)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
    assert not torch.equal(found[0], x)
    assert (
        found[1].keys() == expected[1].keys() == (set(range(ROWS)[given.rows]) if traced else set())
    )
    for row, both in found[1].items():
        for one, other in zip(both, expected[1][row], strict=True):
            assert one == pytest.approx(other, rel=1e-5, abs=1e-5)


def test_a_token_gets_the_same_bits_alone_and_in_a_prompt_or_beside_others(hook) -> None:
    x = 2 * torch.randn(1, ROWS, hook.mounts[0].info.width)
    together, _ = edited(hook, x, part(Phase.GENERATED, ROWS))
    assert torch.equal(together[:, 1], x[:, 1]), "its row is not steered"
    for row in range(ROWS):
        own = replace(part(Phase.GENERATED, 1), rows=slice(row, row + 1))
        alone, _ = edited(hook, x[:, row : row + 1], own)
        assert torch.equal(alone[:, 0], together[:, row])
    prompt, _ = edited(hook, x, part(Phase.PROMPT, ROWS))
    both = (
        replace(part(Phase.GENERATED, 2), tokens=slice(0, 2)),
        replace(part(Phase.PROMPT, 4), tokens=slice(2, 6)),
    )
    mixed, _ = edited(hook, x, *both)
    assert torch.equal(mixed, torch.cat([together[:, :2], prompt[:, 2:]], dim=1))


@pytest.mark.parametrize("norm", [Norm.NONE, Norm.LAYER_NORM])
def test_another_dictionary_there_changes_no_bit_of_rows_that_it_does_not_edit(
    hook, make_dictionary, steer, norm: Norm
) -> None:
    x = 2 * torch.randn(1, ROWS, hook.mounts[0].info.width)
    before, _ = edited(hook, x, part(Phase.GENERATED, ROWS, some=True))
    second = make_dictionary("second", d_in=hook.mounts[0].info.d_in)
    second.info = replace(second.info, norm=norm)
    other = Mount(second, ROWS, 16, torch.device("cpu"))
    other.table.write(2, other.prepare(steer((5, "add", 2.0, "all", "second")).edits))
    hook.mounts = [*hook.mounts, other]
    after = hook(x)
    rest = [0, 1, 3, 4, 5]
    assert torch.equal(after[:, rest], before[:, rest])
    hook.parts = [part(Phase.GENERATED, ROWS)]
    alone = hook(x)[0, 2] - x[0, 2]
    hook.mounts = hook.mounts[1:]
    add = 4 * other.dictionary.rows([7]).dec[0]
    torch.testing.assert_close(alone - (hook(x)[0, 2] - x[0, 2]), add, rtol=1e-4, atol=1e-4)


def test_what_is_not_finite_stays_in_its_row(hook, kind: str) -> None:
    x = torch.randn(1, ROWS, hook.mounts[0].info.width)
    clean, _ = edited(hook, x, part(Phase.GENERATED, ROWS), own=kind == "own")
    x[0, 0, 3] = torch.nan
    spoilt, _ = edited(hook, x, part(Phase.GENERATED, ROWS), own=kind == "own")
    assert spoilt[0, 0].isnan().any()
    assert torch.equal(spoilt[:, 1:], clean[:, 1:])


@pytest.mark.parametrize("norm", [Norm.LAYER_NORM, Norm.CONSTANT])
def test_a_dictionary_that_is_not_plain_is_left_to_torch(make_dictionary, norm: Norm) -> None:
    plain = make_dictionary()
    assert Mount(plain, 2, 4, torch.device("cpu")).plain
    plain.info = replace(plain.info, norm=norm)
    assert not Mount(plain, 2, 4, torch.device("cpu")).plain
    plain.info = replace(plain.info, norm=Norm.NONE, k=4)
    assert not Mount(plain, 2, 4, torch.device("cpu")).plain
