"""What steering costs in the engine alone: no HTTP, no client, every row decoding to the end.

    python tests/benchmarks/engine.py                  foghorn
    python tests/benchmarks/engine.py --shape 135m     random weights of SmolLM2's shape

Steered and unsteered runs alternate, and both are told per second of wall clock and of CPU: on a
machine that others use too, only the second means much. The last line on stdout is JSON.
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
from hosting import REPO
from report import middle, ratio

from dictionaries.edits import Op
from dictionaries.formats import open_dictionary
from server.engine.engine import SlotEngine
from server.engine.load import load_model
from server.engine.types import Delta, FeatureEdit, Finish, Request, Sampling, Steering

FOGHORN = REPO / "dictionaries" / "foghorn"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), help="random weights")
    parser.add_argument("--rows", default="1,8,32", help="replies at the same time")
    parser.add_argument("--edits", type=int, default=8, help="clamps of a steered reply")
    parser.add_argument("--strength", type=float, default=0.5, help="in activations")
    parser.add_argument("--tokens", type=int, default=48, help="of each reply")
    parser.add_argument("--repeats", type=int, default=7)
    return parser.parse_args()


def steering(row: int, count: int, strength: float, dictionary: str, d_sae: int) -> Steering:
    """Clamps on features no neighbouring row has."""
    ids = [(row * count + i) % d_sae for i in range(count)]
    edit = Op.CLAMP.edit(strength)
    return Steering(tuple(FeatureEdit(dictionary, i, Op.CLAMP, strength, edit) for i in ids))


async def run(engine: SlotEngine, steerings: list[Steering], tokens: int) -> tuple[float, float]:
    """All rows at once; tokens per second of wall clock and of CPU while all of them decode.

    From the step after which every row has its first token to the first row's end: steered rows
    are submitted more slowly, and what is left of their prompts is no decoding.
    """
    vocabulary = engine.capabilities.vocab_size
    waiting = set(range(len(steerings)))
    made, ended = 0, False
    wall = cpu = 0.0
    spent = (0.0, 0.0)

    async def one(row: int) -> None:
        nonlocal made, ended, wall, cpu, spent
        prompt = tuple((7 * row + 11 * i) % (vocabulary // 2) + 8 for i in range(16))
        sampling = Sampling(temperature=0.0, seed=row, max_tokens=tokens, ignore_eos=True)
        request = Request(f"row-{row}", prompt, (True,) * 16, sampling, steerings[row])
        async for event in engine.submit(request):
            if isinstance(event, Delta):
                if waiting:
                    waiting.discard(row)
                    wall, cpu = time.perf_counter(), time.process_time()
                elif not ended:
                    made += len(event.tokens)
                    spent = time.perf_counter() - wall, time.process_time() - cpu
            elif isinstance(event, Finish):
                ended = True
            else:
                raise RuntimeError(event.message)

    await asyncio.gather(*(one(row) for row in range(len(steerings))))
    if waiting or not spent[0]:
        raise RuntimeError("a reply ended before all had begun: give --tokens more")
    return made / spent[0], made / spent[1]


def measure(args: argparse.Namespace, model: Path, sae: Path) -> list[dict[str, Any]]:
    dictionary = open_dictionary(sae, id="sae")
    d_sae = dictionary.info.d_sae
    engine = SlotEngine(*load_model(model, device="cpu", dtype="float32"), {"sae": dictionary})
    engine.start()
    points = []
    try:
        for rows in map(int, args.rows.split(",")):
            plain = [Steering()] * rows
            edits = [steering(r, args.edits, args.strength, "sae", d_sae) for r in range(rows)]
            for kind in plain, edits:
                asyncio.run(run(engine, kind, args.tokens))
            pairs = [
                [asyncio.run(run(engine, kind, args.tokens)) for kind in (plain, edits)]
                for _ in range(args.repeats)
            ]
            (wall, cpu), (steered_wall, steered_cpu) = (
                zip(*(pair[i] for pair in pairs), strict=True) for i in (0, 1)
            )
            points.append(
                {
                    "rows": rows,
                    "tokens_per_s": middle(wall),
                    "tokens_per_cpu_s": middle(cpu),
                    "steered_over_unsteered": ratio(steered_wall, wall),
                    "steered_over_unsteered_cpu": ratio(steered_cpu, cpu),
                }
            )
    finally:
        engine.close()
    return points


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folders = FOGHORN / "model", FOGHORN / "sae"
        if args.shape:
            folders = shapes.make(args.shape, Path(scratch))
        points = measure(args, *folders)
    for point in points:
        wall, cpu = point["steered_over_unsteered"], point["steered_over_unsteered_cpu"]
        print(
            f"{point['rows']:>4} rows: {point['tokens_per_s']} tokens/s, steered {wall['median']}"
        )
        print(f"      per cpu-s: {point['tokens_per_cpu_s']} tokens, steered {cpu['median']}")
    head = {"benchmark": "engine", "threads": torch.get_num_threads(), "edits": args.edits}
    print(json.dumps({**head, "points": points}))


if __name__ == "__main__":
    main()
