"""What is compiled, under which name it is kept, and when nothing of it is used."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import pytest

from server.engine.compiled import store
from server.engine.compiled.call import Uncompilable
from server.engine.compiled.store import Store, environment

pytestmark = pytest.mark.timeout(600)  # a compiler on a busy machine


def test_code_that_computes_something_else_is_not_used(
    make_engine, make_model, tmp_path, monkeypatch, caplog
) -> None:
    class Wrong:
        def run(self, given: Any) -> Any:
            return [given[0] * 1.01]

    monkeypatch.setattr(Store, "load", lambda *_: Wrong())
    model = make_model()
    assert make_engine(model=model, compiled=tmp_path).compilation == "failed"
    assert "gives something else" in caplog.text
    assert not any("forward" in vars(layer) for layer in model.model.layers)


def test_what_a_killed_server_left_of_a_compilation_goes_with_the_next(
    make_model, tmp_path, monkeypatch
) -> None:
    old, new = tmp_path / "making-old", tmp_path / "making-new"
    for left in (old, new):
        left.mkdir()
    os.utime(old, (0, 0))
    monkeypatch.setattr(Store, "_run", lambda *_: None)
    Store(tmp_path, make_model()).make([])
    assert list(tmp_path.iterdir()) == [new]


def test_what_another_server_sweeps_at_the_same_time_is_no_trouble(
    make_model, tmp_path, monkeypatch
) -> None:
    names = [tmp_path / f"making-{i}" for i in range(2)]
    names[1].mkdir()
    os.utime(names[1], (0, 0))
    kept = Store(tmp_path, make_model())
    monkeypatch.setattr(Path, "glob", lambda *_: iter(names))  # the first has just gone
    kept._sweep()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("family", "kinds"), [("llama", 1), ("gpt2", 1), ("gemma2", 2)])
def test_layers_with_the_same_code_are_compiled_once(
    make_model, family, kinds, tmp_path, monkeypatch
) -> None:
    def make(self: Store, wanted: Any) -> None:
        raise Uncompilable(f"{len(wanted)} kinds")

    monkeypatch.setattr(Store, "make", make)
    from server.engine.runner import Runner

    runner = Runner(
        make_model(family), {}, rows=2, capacity=32, max_edits=1, threads=1, compiled=tmp_path
    )
    found = runner._compilation._kinds
    assert len({kind.key for kind in found.values()}) == kinds
    assert sorted(found) == [0, 1, 2]


def test_what_code_depends_on_is_in_its_name(make_model, monkeypatch) -> None:
    model = make_model()
    names = {environment(model)}
    model.config.rms_norm_eps *= 2
    names.add(environment(model))
    monkeypatch.setattr(store, "processor", lambda: "another machine")
    names.add(environment(model))
    monkeypatch.setattr(store.torch, "__version__", "9")
    names.add(environment(model))
    assert len(names) == 4


def test_nothing_of_it_is_imported_where_it_is_off() -> None:
    """Elsewhere it is named in functions only, and for type checkers."""
    server = Path(store.__file__).parents[2]
    importing = []
    for path in server.rglob("*.py"):
        if path.parent.name != "compiled":
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and "compiled" in (node.module or ""):
                    importing.append((path.name, node in tree.body))
    assert set(importing) == {("runner.py", False)}
