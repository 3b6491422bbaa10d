"""What compiled layers gain in the engine alone: eager and compiled take turns in one process.

    python tests/benchmarks/compiled.py --shape 135m

Both are told per second of wall clock and of CPU; on a machine that others use too, only the
second means much. The last line on stdout is JSON. See tests/benchmarks/engine.py for the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

# as the server does, and before torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shapes
import torch
from engine import FOGHORN, Kind, run, steering
from report import middle, ratio

from dictionaries.formats import open_dictionary
from server.engine.engine import SlotEngine
from server.engine.load import load_model
from server.engine.types import Steering


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), help="random weights")
    parser.add_argument("--rows", default="1,8,32", help="replies at the same time")
    parser.add_argument("--edits", type=int, default=8, help="clamps of every reply")
    parser.add_argument("--tokens", type=int, default=48, help="of each reply")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: the fastest")
    return parser.parse_args()


def build(model: Path, sae: Path, threads: int | None, kept: Path | None) -> SlotEngine:
    """A started engine; with `kept`, once it runs compiled."""
    loaded = load_model(model, device="cpu", dtype="float32")
    dictionaries = {"sae": open_dictionary(sae, id="sae")}
    engine = SlotEngine(*loaded, dictionaries, threads=threads, compiled=kept)
    engine.start()
    while engine.compilation == "running":
        time.sleep(1)
        asyncio.run(run(engine, Kind([Steering()]), 4))
    if kept is not None and engine.compilation != "on":
        raise SystemExit("the layers could not be compiled: see the log")
    return engine


def measure(
    args: argparse.Namespace, engines: list[SlotEngine], d_sae: int
) -> list[dict[str, Any]]:
    points = []
    for rows in map(int, args.rows.split(",")):
        edits = Kind([steering(row, args.edits, 0.5, d_sae) for row in range(rows)])
        for engine in engines:
            asyncio.run(run(engine, edits, args.tokens))
        taken = [
            [asyncio.run(run(engine, edits, args.tokens)) for engine in engines]
            for _ in range(args.repeats)
        ]
        (wall, cpu), (fast_wall, fast_cpu) = (
            zip(*(turn[i] for turn in taken), strict=True) for i in (0, 1)
        )
        points.append(
            {
                "rows": rows,
                "eager_tokens_per_s": middle(wall),
                "eager_tokens_per_cpu_s": middle(cpu),
                "compiled_tokens_per_cpu_s": middle(fast_cpu),
                "compiled_over_eager": ratio(fast_wall, wall),
                "compiled_over_eager_cpu": ratio(fast_cpu, cpu),
            }
        )
    return points


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folders = FOGHORN / "model", FOGHORN / "sae"
        if args.shape:
            folders = shapes.make(args.shape, Path(scratch))
        began = time.perf_counter()
        engines = [build(*folders, args.threads, kept) for kept in (None, Path(scratch) / "code")]
        ready = time.perf_counter() - began
        try:
            d_sae = open_dictionary(folders[1], id="sae").info.d_sae
            points = measure(args, engines, d_sae)
        finally:
            for engine in engines:
                engine.close()
    for point in points:
        eager, fast = point["eager_tokens_per_cpu_s"], point["compiled_tokens_per_cpu_s"]
        gain = point["compiled_over_eager_cpu"]["median"]
        print(f"{point['rows']:>4} rows: per cpu-s {eager} tokens eager, {fast} compiled, {gain}")
    head = {"benchmark": "compiled", "threads": torch.get_num_threads(), "edits": args.edits}
    print(json.dumps({**head, "ready_s": round(ready, 1), "points": points}))


if __name__ == "__main__":
    main()
