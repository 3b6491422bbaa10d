"""The import graph, read from the source: `ui -> server -> dictionaries` and nothing else.

`ui` reaches the server by HTTP only, `dictionaries` knows of no web and no model code, and whoever
installs only the client or only the page never imports torch.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
MAY_IMPORT = {"ui": set(), "server": {"dictionaries"}, "dictionaries": set()}
WEB = {"fastapi", "starlette", "sse_starlette", "uvicorn", "gradio", "httpx", "httpx2"}
MODEL = {"transformers", "tokenizers"}
BANNED = {
    "ui": {"torch", "safetensors", *MODEL},
    "server": set(),
    "dictionaries": WEB | MODEL,
}


@dataclass(frozen=True)
class Import:
    """One import statement: the module it stands in and what it names, dots resolved."""

    file: Path
    line: int
    module: str
    target: str
    relative: bool
    lazy: bool  # inside a function
    typing_only: bool  # under `if TYPE_CHECKING:`

    @property
    def room(self) -> str:
        return self.module.split(".")[0]

    @property
    def top(self) -> str:
        return self.target.split(".")[0]


def module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(
    tree: ast.AST, lazy: bool = False, typing_only: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    """Every import below `tree`, whether it is inside a function, and whether only for types."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, lazy, typing_only
            continue
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        yield from statements(node, lazy or inside, typing_only or guarded)


def targets(
    node: ast.Import | ast.ImportFrom, file: Path, module: str, modules: set[str]
) -> list[str]:
    """The modules a statement imports; `from x import y` names x.y where that is a module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
        up = len(package) - node.level + 1
        base = ".".join([*package[: max(up, 0)], *([base] if base else [])]) or "<above the room>"
    full = [f"{base}.{alias.name}" for alias in node.names]
    return sorted({name if name in modules else base for name in full})


@cache
def imports_of(root: Path) -> list[Import]:
    files = sorted(file for room in MAY_IMPORT for file in (root / room).rglob("*.py"))
    modules = {module_name(file, root) for file in files}
    found = []
    for file in files:
        name = module_name(file, root)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node, lazy, typing_only in statements(tree):
            relative = isinstance(node, ast.ImportFrom) and node.level > 0
            for target in targets(node, file, name, modules):
                where = file.relative_to(root)
                found.append(Import(where, node.lineno, name, target, relative, lazy, typing_only))
    return found


def wrong(imp: Import) -> str | None:
    """Why this import breaks a rule of the house, or None."""
    mount = imp.file.as_posix() == "server/mount.py"
    making = imp.file.parts[:2] == ("dictionaries", "making")
    if imp.relative:
        return None if imp.top == imp.room else "a relative import leaves its room"
    if imp.top == imp.room:
        return "inside a room imports are relative"
    if imp.top in MAY_IMPORT and imp.top not in MAY_IMPORT[imp.room]:
        if mount and imp.top == "ui":
            return None if imp.lazy else "server/mount.py imports ui inside a function"
        return f"{imp.room} may not import {imp.top}"
    if imp.top in BANNED[imp.room] and not (making and imp.top in MODEL):
        return f"{imp.room} does without {imp.top}"
    if imp.top == "gradio" and imp.room == "server" and not (mount and imp.lazy):
        return "only server/mount.py touches gradio, inside a function"
    return None


def cycle(imports: list[Import]) -> list[str]:
    """One import cycle between modules, its first module repeated at the end, or nothing."""
    modules = {imp.module for imp in imports}
    graph: dict[str, set[str]] = {}
    for imp in imports:
        if imp.target in modules and imp.target != imp.module and not imp.typing_only:
            graph.setdefault(imp.module, set()).add(imp.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def complaints(root: Path) -> list[str]:
    imports = imports_of(root)
    found = [f"{i.file}:{i.line}: imports {i.target}: {why}" for i in imports if (why := wrong(i))]
    if loop := cycle(imports):
        found.append(f"import cycle: {' <- '.join(loop)}")
    return found


def test_imports_run_one_way_through_the_house():
    found = complaints(REPO)
    assert not found, "\n" + "\n".join(found)


def test_the_graph_sees_the_real_imports():
    seen = {(imp.module, imp.target) for imp in imports_of(REPO)}
    assert ("server.engine.types", "dictionaries.edits") in seen
    assert ("dictionaries.edits", "torch") in seen


GOOD = {
    "ui/__init__.py": "",
    "ui/page.py": "import gradio\nfrom . import client\n",
    "ui/client.py": "import httpx2\n",
    "server/__init__.py": "",
    "server/app.py": "from dictionaries.edits import Op\nfrom .mount import mount\n",
    "server/mount.py": "def mount():\n    import gradio\n    from ui.page import build_page\n",
    "server/routes/__init__.py": "",
    "server/routes/chat.py": "from ..mount import mount\nfrom .. import mount as m\n",
    "dictionaries/__init__.py": "",
    "dictionaries/edits.py": "import torch\n",
    "dictionaries/making/__init__.py": "",
    "dictionaries/making/train.py": "import transformers\nfrom ..edits import Op\n",
}
BAD = [
    ("ui/page.py", "import server.app", "ui may not import server"),
    ("ui/page.py", "def f():\n from dictionaries import edits", "ui may not import dictionaries"),
    ("ui/page.py", "import torch.nn", "ui does without torch"),
    ("dictionaries/edits.py", "from server.app import x", "dictionaries may not import server"),
    ("dictionaries/edits.py", "import transformers", "dictionaries does without transformers"),
    ("dictionaries/making/train.py", "import fastapi", "dictionaries does without fastapi"),
    ("server/app.py", "def f():\n    import ui.page", "server may not import ui"),
    ("server/mount.py", "from ui.page import build_page", "imports ui inside a function"),
    ("server/app.py", "import gradio", "only server/mount.py touches gradio"),
    ("server/app.py", "from server.mount import mount", "inside a room imports are relative"),
    ("server/app.py", "from ...ui import page", "a relative import leaves its room"),
    ("server/mount.py", "from . import app", "import cycle"),
    ("server/mount.py", "def f():\n    from .routes.chat import x", "import cycle"),
]


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_a_good_tree_has_no_complaints(tmp_path):
    assert complaints(lay(tmp_path, GOOD)) == []


@pytest.mark.parametrize(("file", "text", "why"), BAD)
def test_every_wrong_import_is_named_with_its_file(tmp_path, file, text, why):
    found = [line for line in complaints(lay(tmp_path, {**GOOD, file: text})) if why in line]
    assert len(found) == 1
    assert file in found[0] or file.removesuffix(".py").replace("/", ".") in found[0]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("server.cli", {"torch", "transformers", "gradio", "fastapi", "numpy"}),
        ("ui.client", {"torch", "transformers", "gradio", "fastapi", "numpy"}),
        ("server.mount", {"torch", "transformers", "sse_starlette", "prometheus_client"}),
        ("server.middleware", {"torch", "transformers", "sse_starlette", "prometheus_client"}),
    ],
)
def test_a_client_host_needs_no_torch(module, absent):
    """Run with every absent package made unimportable, as on a host that did not install it."""
    run(f"import {module}", absent)


def test_the_page_needs_no_torch_and_writes_no_stubs_of_its_components():
    """They take a third of the time of importing Gradio, and go into a folder that is not ours."""
    code = (
        "import ui.page, ui.stubs\n"
        "assert getattr(sys.modules[ui.stubs.MODULE], ui.stubs.WRITER) is ui.stubs.nothing"
    )
    run(code, {"torch", "transformers"})


def run(code: str, absent: set[str]) -> None:
    without = f"import sys\nsys.modules.update(dict.fromkeys({sorted(absent)}))\n{code}\n"
    done = subprocess.run(
        [sys.executable, "-c", without], cwd=REPO, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
