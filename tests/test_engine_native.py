"""Our own machine code: products that are the same in any company, and how it comes to be there."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from server.engine.native import build, layers, pages
from server.engine.native.product import Native

pytestmark = pytest.mark.skipif(not layers.able(), reason="our own code cannot be compiled here")
SHAPES = [(1, 1), (15, 3), (33, 577), (700, 1025), (64, 3000)]  # outputs, inputs
UNIT = 2.0**-24  # float32's rounding, relative


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """Looks for the code as a process does that has just begun; tells why there is none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)

    def look() -> Any:
        build._found.cache_clear()
        return build._found()

    yield look
    build._found.cache_clear()


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anew: object) -> None:
    """A compiler that hands out what was compiled before."""
    build._found.cache_clear()
    monkeypatch.delenv("XDG_CACHE_HOME")
    made, compiler = build.library()._name, tmp_path / "quick-c++"
    compiler.write_text(f'#!/bin/sh\nfor last; do :; done\ncp {made} "$last"\n')
    compiler.chmod(0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", f"{compiler} -pipe")  # as a launcher or flags may stand there


def given(outputs: int, inputs: int, rows: int = 101) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(outputs)
    weight = torch.randn(outputs, inputs).half().float()
    return weight, torch.randn(outputs), torch.randn(rows, inputs)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_products_are_float32s(outputs: int, inputs: int, biased: bool) -> None:
    weight, bias, x = given(outputs, inputs)
    y = Native(weight, bias if biased else None)(x)
    exact = x.double() @ weight.double().T + (bias.double() if biased else 0.0)
    sizes = x.double().abs() @ weight.double().abs().T + bias.abs()
    assert ((y - exact).abs() <= UNIT * (inputs + 1) * sizes).all()


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_row_is_the_same_to_the_bit_beside_any_others(outputs: int, inputs: int, threads) -> None:
    weight, bias, x = given(outputs, inputs)
    product = Native(weight, bias)
    threads(1)
    together = product(x)
    for workers in (1, 2, 3):
        threads(workers)
        assert torch.equal(product(x), together)
        for first in (0, 3, 48, 95):
            for count in range(1, 14):
                some = slice(first, first + count)
                assert torch.equal(product(x[some]), together[some])


def test_threads_change_nothing_be_they_more_than_rows_panels_or_processors(threads) -> None:
    weight, bias, x = given(33, 1540, rows=300)  # two panels; three blocks of rows
    product = Native(weight, bias)
    threads(1)
    alone = product(x)
    for workers in (2, 5, 9):
        threads(workers)
        for _ in range(20):
            assert torch.equal(product(x), alone)
            assert torch.equal(product(x[:1]), alone[:1])


def test_weights_lie_in_pieces_that_do_not_touch() -> None:
    sizes = [1, 31, 33, 700_000, pages._AREA, 5]
    pieces = [pages.halves(size).fill_(i) for i, size in enumerate(sizes)]
    for i, (piece, size) in enumerate(zip(pieces, sizes, strict=True)):
        assert (piece.shape, piece.data_ptr() % 64) == ((size,), 0)
        assert (piece == i).all()


def test_weights_lie_somewhere_without_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_newest", [])
    monkeypatch.delattr(pages.mmap, "MADV_HUGEPAGE", raising=False)
    assert pages.halves(7).fill_(1.0).sum() == 7
    monkeypatch.undo()

    def refuses(*_: Any, **__: Any) -> Any:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(pages, "_newest", [])
    monkeypatch.setattr(pages, "_Area", refuses)
    assert pages.halves(7).fill_(1.0).sum() == 7


def test_rows_of_any_shape_are_multiplied() -> None:
    weight, bias, x = given(33, 40, rows=6)
    product = Native(weight, bias)
    expected = product(x)
    assert torch.equal(product(x.view(2, 3, 40)), expected.view(2, 3, 33))
    assert torch.equal(product(x.T.contiguous().T), expected)
    assert torch.equal(product(x[0]), expected[0])
    assert product(x[:0]).shape == (0, 33)


def test_what_is_not_finite_stays_in_its_row() -> None:
    weight, bias, x = given(33, 40, rows=3)
    product = Native(weight, bias)
    expected = product(x)
    x[1, 5] = torch.nan
    y = product(x)
    assert y[1].isnan().all()
    assert torch.equal(y[::2], expected[::2])


@pytest.mark.parametrize("x", [torch.zeros(2, 40, dtype=torch.float64), torch.zeros(2, 39)])
def test_other_numbers_than_its_own_are_refused(x: Tensor) -> None:
    with pytest.raises(TypeError, match="float32 of 40 is multiplied"):
        Native(*given(33, 40)[:2])(x)


def test_code_is_compiled_once_and_kept(anew, tmp_path: Path, monkeypatch) -> None:
    assert isinstance(anew(), ctypes.CDLL)
    (kept,) = build.folder().iterdir()
    assert tmp_path in kept.parents
    assert build.folder().stat().st_mode & 0o077 == 0
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert isinstance(anew(), ctypes.CDLL)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert "no-such-compiler" in anew()


def test_what_others_may_have_put_there_is_not_run(
    anew, quick, tmp_path: Path, monkeypatch, caplog
) -> None:
    anew()
    (kept,) = build.folder().iterdir()
    build.folder().chmod(0o777)
    kept.write_bytes(build._sealed(b"no library"))
    caplog.set_level("INFO")
    assert isinstance(anew(), ctypes.CDLL)  # compiled for this process alone
    assert "others may write to" in caplog.text
    assert kept.read_bytes() == build._sealed(b"no library")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in anew()


def test_a_damaged_file_is_compiled_again(anew, quick, tmp_path: Path, monkeypatch) -> None:
    anew()
    (kept,) = build.folder().iterdir()
    for left in (0, 10, 1000, -1):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"all-but-{left}"))
        build.folder().mkdir(parents=True)
        damaged = build.folder() / kept.name
        damaged.write_bytes(kept.read_bytes()[:left])
        assert isinstance(anew(), ctypes.CDLL)
        assert damaged.read_bytes() == kept.read_bytes()


def test_an_image_without_a_compiler_has_it_compiled_ahead(
    anew, quick, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(build, "_AHEAD", tmp_path / "ahead")
    build.ahead()
    assert len(list((tmp_path / "ahead").iterdir())) == 2
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert isinstance(anew(), ctypes.CDLL)
    assert not build.folder().exists()


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(anew, quick, tmp_path: Path) -> None:
    (tmp_path / "steerdeck").write_text("a file where the folder should be")
    assert isinstance(anew(), ctypes.CDLL)


def test_why_there_is_none_is_told_and_not_tried_twice(anew, tmp_path: Path, monkeypatch) -> None:
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\necho x >> $0.calls\necho 'fatal error: no headers' >&2\nexit 1\n")
    broken.chmod(0o700)
    monkeypatch.setenv("CXX", str(broken))
    assert anew() == f"{broken} does not compile it: fatal error: no headers"
    for _ in range(2):
        with pytest.raises(build.Unavailable, match="no headers"):
            Native(*given(33, 40)[:2])
    assert broken.with_name("broken-c++.calls").read_text() == "x\n"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert "AVX2" in anew()
