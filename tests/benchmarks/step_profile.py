"""Where the time of a decode step goes, in the repository's words.

    python tests/benchmarks/step_profile.py --shape 135m --threads 1
    python tests/benchmarks/step_profile.py                            foghorn

Every reply clamps features of its own, and takes the likeliest tokens. Of each step the time within
every part is taken, without that of the parts it calls; what no part accounts for is "the rest of
the layers": transformers' own Python, and without code of ours norms, rotations and gates. Layers
run eagerly.
stdout has the table and one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# as the server does, and before torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shapes
import torch
from engine import FOGHORN, steering

from dictionaries.formats import open_dictionary
from server.engine import (
    attention,
    engine,
    half,
    int8,
    linear,
    passes,
    stacked,
    written,
)
from server.engine import (
    steering as steered,
)
from server.engine.hook import SiteHook
from server.engine.load import load_model
from server.engine.native import layers
from server.engine.native.product import Native
from server.engine.native.whole import Run
from server.engine.runner import Runner
from server.engine.steps import Steps
from server.engine.types import Request, Sampling

REST = "the rest of the layers"
PARTS: dict[str, list[tuple[Any, str]]] = {
    "linear layers": [
        (Native, "__call__"),
        (half.Half, "__call__"),
        (linear._Packed, "__call__"),
        (linear._Either, "__call__"),
        (int8._Eight, "__call__"),
    ],
    "attention": [
        (attention, "slot_attention"),
        (written, "slot_attention"),
        (layers, "turned"),
        (layers, "attend"),
    ],
    "layers, and what follows them, in one call": [(Run, "__call__")],
    "norms and gates": [(layers, "rms_norm"), (layers, "gated")],
    "steering": [
        (SiteHook, "__call__"),
        (SiteHook, "moves"),
        (steered.Steerer, "begin"),
        (steered.Steerer, "seen"),
        (steered.Steerer, "readings"),
    ],
    "sampling": [(passes, "choose")],
    REST: [(Runner, "forward")],
    "planning and events": [
        (Steps, "plan"),
        (Steps, "compute"),
        (Steps, "settle"),
        (engine, "deliver"),
    ],
}


class Clock:
    """Seconds by part, each without the parts within it."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._open: list[tuple[str, float]] = []

    def watch(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._open.append((part, 0.0))
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                whole = time.perf_counter() - began
                name, within = self._open.pop()
                self.spent[name] += whole - within
                if self._open:
                    outer, already = self._open[-1]
                    self._open[-1] = (outer, already + whole)

        return timed

    def put_in(self) -> None:
        for part, places in PARTS.items():
            for owner, name in places:
                setattr(owner, name, self.watch(part, getattr(owner, name)))


async def profile(made: engine.SlotEngine, clock: Clock, rows: int, steps: int) -> dict[str, float]:
    """Milliseconds of a step by part: the median over steps in which all rows decode."""
    d_sae = made._runner.steerer._mounts["sae"].info.d_sae
    for row in range(rows):
        prompt = tuple(8 + (7 * row + 11 * i) % 200 for i in range(16))
        sampling = Sampling(temperature=0.0, max_tokens=steps + 400, ignore_eos=True)
        edits = steering(row, 8, 0.5, d_sae)
        made.submit(Request(f"row-{row}", prompt, (True,) * 16, sampling, edits))
    while made._scheduler.decoding < rows:
        made._step()
    told: dict[str, list[float]] = {part: [] for part in PARTS}
    for _ in range(steps):
        clock.spent.clear()
        made._step()
        for part in PARTS:
            told[part].append(1e3 * clock.spent[part])
    return {part: statistics.median(times) for part, times in told.items()}


def table(found: dict[int, dict[str, float]]) -> str:
    sizes = list(found)
    lines = [
        "| a step's ms | " + " | ".join(f"{n} rows" for n in sizes) + " |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    wholes = {n: sum(found[n].values()) for n in sizes}
    for part in PARTS:
        cells = [f"{found[n][part]:.2f} ({found[n][part] / wholes[n]:.0%})" for n in sizes]
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    lines.append("| all | " + " | ".join(f"{wholes[n]:.1f}" for n in sizes) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), help="random weights")
    parser.add_argument("--rows", default="1,8,32", help="replies at the same time")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, help="default: the fastest")
    parser.add_argument("--parts", action="store_true", help="layers part by part, to see within")
    args = parser.parse_args(argv)
    if args.parts:
        stacked._LAYERS.clear()
    clock = Clock()
    clock.put_in()
    with TemporaryDirectory() as scratch:
        folders = FOGHORN / "model", FOGHORN / "sae"
        if args.shape:
            folders = shapes.make(args.shape, Path(scratch), dtype=torch.bfloat16)
        found = {}
        for rows in map(int, args.rows.split(",")):
            loaded = load_model(folders[0], device="cpu", dtype="float32")
            dictionary = {"sae": open_dictionary(folders[1], id="sae")}
            made = engine.SlotEngine(*loaded, dictionary, max_rows=rows, threads=args.threads)
            made._death = None  # its steps are made here, not by its thread
            made._runner.enter()
            found[rows] = asyncio.run(profile(made, clock, rows, args.steps))
    print(table(found))
    print(json.dumps({"benchmark": "step_profile", "model": args.shape or "foghorn", "ms": found}))


if __name__ == "__main__":
    main()
