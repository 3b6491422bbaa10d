"""How much running replies slow down while a long prompt is admitted: the engine alone.

    python tests/benchmarks/admission.py --shape 135m

Eight replies run; then a prompt of 1,000 tokens comes. Told are the times between a reply's tokens
before it came and until its own first token, in wall clock and in CPU time: on a machine that
others use too, only the second means much. The last line on stdout is JSON.
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
from engine import FOGHORN

from server.engine.engine import SlotEngine
from server.engine.load import load_model
from server.engine.types import Delta, Failure, Request, Sampling


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), help="random weights")
    parser.add_argument("--rows", type=int, default=8, help="replies that run")
    parser.add_argument("--prompt", type=int, default=1000, help="tokens of the one that comes")
    parser.add_argument("--threads", type=int, help="default: the fastest")
    return parser.parse_args()


def request(name: str, prompt: int, tokens: int) -> Request:
    ids = tuple(8 + (11 * i + len(name)) % 200 for i in range(prompt))
    sampling = Sampling(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    return Request(name, ids, (True,) * prompt, sampling)


async def admit(engine: SlotEngine, rows: int, prompt: int) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU) seconds between tokens: `before` the prompt came and `while` it was computed."""
    gaps: dict[str, list[tuple[float, float]]] = {"before": [], "while": []}
    phase, warm, done = "before", asyncio.Event(), asyncio.Event()

    async def run(name: str) -> None:
        last, count = None, 0
        generation = engine.submit(request(name, 16, 400))
        async for event in generation:
            now = time.perf_counter(), time.process_time()
            if isinstance(event, Failure):
                raise RuntimeError(event.message)
            if not isinstance(event, Delta):
                return
            count += 1
            if last is not None and count > 10:
                gaps[phase].append((now[0] - last[0], now[1] - last[1]))
            last = now
            if count == 50:
                warm.set()
            if done.is_set():
                generation.cancel()

    async def come() -> None:
        nonlocal phase
        await warm.wait()
        phase = "while"
        async for event in engine.submit(request("long", prompt, 1)):
            if isinstance(event, Failure):
                raise RuntimeError(event.message)
            done.set()

    await asyncio.gather(come(), *(run(f"row-{row}") for row in range(rows)))
    return gaps


def p95(gaps: list[tuple[float, float]], clock: int) -> float:
    times = sorted(gap[clock] for gap in gaps)
    return times[min(int(0.95 * len(times)), len(times) - 1)]


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        model = FOGHORN / "model"
        if args.shape:
            model, _ = shapes.make(args.shape, Path(scratch))
        loaded = load_model(model, device="cpu", dtype="float32")
        engine = SlotEngine(*loaded, {}, threads=args.threads)
    engine.start()
    try:
        asyncio.run(admit(engine, args.rows, args.prompt))
        gaps = asyncio.run(admit(engine, args.rows, args.prompt))
    finally:
        engine.close()
    told: dict[str, Any] = {"benchmark": "admission", "rows": args.rows, "prompt": args.prompt}
    told["threads"] = torch.get_num_threads()
    for clock, name in enumerate(("wall", "cpu")):
        before, during = p95(gaps["before"], clock), p95(gaps["while"], clock)
        told[name] = {
            "p95_before_ms": round(1000 * before, 1),
            "p95_while_ms": round(1000 * during, 1),
            "rise": round(during / before, 2),
        }
        print(f"{name}: p95 {1000 * before:.1f} ms, {1000 * during:.1f} ms while it is admitted")
    print(json.dumps({**told, "steps_while": len(gaps["while"]) // args.rows}))


if __name__ == "__main__":
    main()
