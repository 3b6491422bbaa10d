"""What steering costs in the engine alone: no HTTP, no client, every row decoding to the end.

    python tests/benchmarks/engine.py                  foghorn
    python tests/benchmarks/engine.py --shape 135m     random weights of SmolLM2's shape
    python tests/benchmarks/engine.py --shape 8b --device cuda --context 512 --rows 1,8,64

Unsteered and steered runs take turns, and so do runs in which all rows share one configuration,
every token is traced, or every other row is the unsteered shadow of a reply. They are told per
second of wall clock and of CPU: on a machine that others use too, only the second means much. The
last line on stdout is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from dataclasses import dataclass
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
from server.engine.linear import ROUNDINGS
from server.engine.load import load_model
from server.engine.types import Delta, FeatureEdit, Finish, Request, Sampling, Steering

FOGHORN = REPO / "dictionaries" / "foghorn"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), help="random weights")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", *ROUNDINGS], default="float32")
    parser.add_argument("--device", default="cpu", help="a shape is built there, in bfloat16")
    parser.add_argument("--context", type=int, help="positions a reply may take")
    parser.add_argument("--no-graphs", action="store_true", help="of a GPU's decode steps")
    parser.add_argument("--rows", default="1,8,32", help="replies at the same time")
    parser.add_argument("--edits", type=int, default=8, help="clamps of a steered reply")
    parser.add_argument("--strength", type=float, default=0.5, help="in activations")
    parser.add_argument("--tokens", type=int, default=48, help="of each reply")
    parser.add_argument("--repeats", type=int, default=7)
    return parser.parse_args()


def steering(row: int, count: int, strength: float, d_sae: int) -> Steering:
    """Clamps on features no neighbouring row has."""
    ids = [(row * count + i) % d_sae for i in range(count)]
    edit = Op.CLAMP.edit(strength)
    return Steering(tuple(FeatureEdit("sae", i, Op.CLAMP, strength, edit) for i in ids))


@dataclass(frozen=True)
class Kind:
    """What the replies of a run are, of `rows` rows in a step."""

    steerings: list[Steering]
    trace: bool = False
    shadowed: bool = False  # half as many replies, each with its shadow


def kinds(rows: int, count: int, strength: float, d_sae: int) -> dict[str, Kind]:
    own = [steering(row, count, strength, d_sae) for row in range(rows)]
    made = {
        "unsteered": Kind([Steering()] * rows),
        "steered": Kind(own),
        "shared": Kind(own[:1] * rows),
        "traced": Kind(own, trace=True),
    }
    return made | ({"shadowed": Kind(own[: rows // 2], shadowed=True)} if rows > 1 else {})


RATIOS = {
    "steered_over_unsteered": ("steered", "unsteered"),
    "own_over_shared": ("steered", "shared"),
    "traced_over_untraced": ("traced", "steered"),
    "with_shadows_over_as_many_replies": ("shadowed", "steered"),  # a step's rows: shadows count
}


async def run(engine: SlotEngine, kind: Kind, tokens: int) -> tuple[float, float]:
    """All at once; rows' tokens per second of wall clock and of CPU while all of them decode.

    From the step after which every row has its first token to the first row's end: steered rows
    are submitted more slowly, and what is left of their prompts is no decoding.
    """
    vocabulary = engine.capabilities.vocab_size
    waiting = set(range(len(kind.steerings)))
    made, ended = 0, False
    wall = cpu = 0.0
    spent = (0.0, 0.0)

    async def one(row: int) -> None:
        nonlocal made, ended, wall, cpu, spent
        prompt = tuple((7 * row + 11 * i) % (vocabulary // 2) + 8 for i in range(16))
        sampling = Sampling(temperature=0.0, seed=row, max_tokens=tokens, ignore_eos=True)
        request = Request(
            f"row-{row}",
            prompt,
            (True,) * 16,
            sampling,
            kind.steerings[row],
            trace=kind.trace,
            kl=kind.shadowed,
        )
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

    await asyncio.gather(*(one(row) for row in range(len(kind.steerings))))
    if waiting or not spent[0]:
        raise RuntimeError("a reply ended before all had begun: give --tokens more")
    computed = made * (1 + kind.shadowed)
    return computed / spent[0], computed / spent[1]


def start(args: argparse.Namespace, scratch: Path) -> tuple[SlotEngine, int]:
    """The engine under way, and how many features its dictionary has."""
    weights = args.dtype if args.dtype in ROUNDINGS else None
    if args.shape and args.device != "cpu":
        loaded: tuple[Any, Any] = shapes.built(args.shape, args.device)
        sae = shapes.make_sae(args.shape, scratch)
    else:
        folders = FOGHORN / "model", FOGHORN / "sae"
        model, sae = shapes.make(args.shape, scratch) if args.shape else folders
        dtype = "float32" if weights else args.dtype
        loaded = load_model(model, device=args.device, dtype=dtype)
    dictionary = open_dictionary(sae, id="sae")
    engine = SlotEngine(
        *loaded,
        {"sae": dictionary},
        max_rows=max(32, *map(int, args.rows.split(","))),
        max_context=args.context,
        weights=weights,
        graphs=not args.no_graphs,
    )
    engine.start()
    return engine, dictionary.info.d_sae


def measure(args: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    engine, d_sae = start(args, scratch)
    try:
        sizes = map(int, args.rows.split(","))
        return [
            measured(engine, kinds(rows, args.edits, args.strength, d_sae), rows, args)
            for rows in sizes
        ]
    finally:
        engine.close()


def measured(
    engine: SlotEngine, all_kinds: dict[str, Kind], rows: int, args: argparse.Namespace
) -> dict[str, Any]:
    """One point: every kind once to warm up, then all in turn."""
    rounds = [
        {name: asyncio.run(run(engine, kind, args.tokens)) for name, kind in all_kinds.items()}
        for _ in range(1 + args.repeats)
    ][1:]
    wall, cpu = ({name: [r[name][i] for r in rounds] for name in all_kinds} for i in (0, 1))
    point: dict[str, Any] = {
        "rows": rows,
        "tokens_per_s": middle(wall["unsteered"]),
        "tokens_per_cpu_s": middle(cpu["unsteered"]),
    }
    for name, (one, other) in RATIOS.items():
        if one in all_kinds:
            point[name] = ratio(wall[one], wall[other])
            point[f"{name}_cpu"] = ratio(cpu[one], cpu[other])
    return point


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        points = measure(args, Path(scratch))
    for point in points:
        per = f"{point['tokens_per_s']} tokens/s, {point['tokens_per_cpu_s']} per cpu-s"
        print(f"{point['rows']:>4} rows, unsteered: {per}")
        for name in RATIOS:
            if name in point:
                wall, cpu = point[name]["median"], point[f"{name}_cpu"]["median"]
                print(f"      {name.replace('_', ' ')}: {wall}, per cpu-s {cpu}")
    head = {"benchmark": "engine", "threads": torch.get_num_threads(), "edits": args.edits}
    print(json.dumps({**head, "dtype": args.dtype, "points": points}))


if __name__ == "__main__":
    main()
