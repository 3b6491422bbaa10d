"""How soon a chat's turns begin, with and without the prefix cache.

    python tests/benchmarks/chat.py                  foghorn
    python tests/benchmarks/chat.py --shape 135m     random weights of SmolLM2's shape

One steered chat at a time, in the engine alone: each turn's prompt is all that was said and some
new tokens. Both engines are asked the same turn back to back, so that the ratio holds on a machine
that others use too, and whether both gave the same tokens is told. Times are of wall clock, from
submitting to the first token. The last line on stdout is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# as the server does, and before torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shapes
import torch
from engine import FOGHORN, steering
from report import middle

from dictionaries.formats import open_dictionary
from server.engine.engine import SlotEngine
from server.engine.load import load_model
from server.engine.types import Delta, Failure, Finish, Request, Sampling, Steering

SPECIAL: set[int] = set()  # the model's


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), help="random weights")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--said", type=int, default=60, help="new tokens of each turn")
    parser.add_argument("--tokens", type=int, default=40, help="of each reply")
    parser.add_argument("--edits", type=int, default=8, help="clamps of all replies")
    parser.add_argument("--strength", type=float, default=0.5, help="in activations")
    parser.add_argument("--chats", type=int, default=5)
    parser.add_argument("--cache", type=int, default=512, help="MiB")
    return parser.parse_args()


@dataclass(frozen=True)
class Turn:
    first: float  # seconds to the first token
    ids: tuple[int, ...]
    cached: int


async def ask(engine: SlotEngine, prompt: tuple[int, ...], edits: Steering, tokens: int) -> Turn:
    """Special tokens, which a reply that runs on has too, are edited in neither place."""
    sampling = Sampling(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    steerable = tuple(token not in SPECIAL for token in prompt)
    request = Request("turn", prompt, steerable, sampling, edits)
    started, first, ids = time.perf_counter(), 0.0, []
    async for event in engine.submit(request):
        if isinstance(event, Failure):
            raise RuntimeError(event.message)
        if isinstance(event, Finish):
            return Turn(first, tuple(ids), event.cached_tokens)
        if isinstance(event, Delta):
            first = first or time.perf_counter() - started
            ids += [token.id for token in event.tokens]
    raise RuntimeError("the stream broke off")


def chat(
    number: int, args: argparse.Namespace, engines: tuple[SlotEngine, SlotEngine], edits: Steering
) -> list[tuple[int, Turn, Turn]]:
    """By turn: the prompt's tokens, and the turn without and with the cache."""
    draw = random.Random(number)
    vocabulary = engines[0].capabilities.vocab_size
    prompt: tuple[int, ...] = ()
    turns = []
    for turn in range(args.turns):
        prompt += tuple(draw.randrange(8, vocabulary) for _ in range(args.said))
        order = engines if (turn + number) % 2 else engines[::-1]
        told = {e: asyncio.run(ask(e, prompt, edits, args.tokens)) for e in order}
        without, cached = (told[engine] for engine in engines)
        if without.ids != cached.ids:
            print(f"chat {number}, turn {turn + 1}: two tokens tied and fell differently")
        turns.append((len(prompt), without, cached))
        prompt += without.ids
    return turns


def measure(args: argparse.Namespace, model: Path, sae: Path) -> list[dict[str, Any]]:
    dictionary = open_dictionary(sae, id="sae")
    edits = steering(0, args.edits, args.strength, dictionary.info.d_sae)
    loaded = [load_model(model, device="cpu", dtype="float32") for _ in range(2)]
    SPECIAL.update(loaded[0][1].all_special_ids)
    engines = tuple(
        SlotEngine(
            *one,
            {"sae": dictionary},
            max_rows=2,
            threads=torch.get_num_threads(),
            prefix_cache=cache,
        )
        for one, cache in zip(loaded, (0, args.cache * 2**20), strict=True)
    )
    for engine in engines:
        engine.start()
    try:
        chat(-1, args, engines, edits)  # warms up
        chats = [chat(number, args, engines, edits) for number in range(args.chats)]
    finally:
        for engine in engines:
            engine.close()
    points = []
    for number, turns in enumerate(zip(*chats, strict=True)):
        lengths, without, cached = zip(*turns, strict=True)
        points.append(
            {
                "turn": number + 1,
                "prompt_tokens": lengths[0],
                "cached_tokens": min(turn.cached for turn in cached),
                "ttft_ms": middle([1e3 * turn.first for turn in without]),
                "cached_ttft_ms": middle([1e3 * turn.first for turn in cached]),
                "ratio": middle([a.first / b.first for a, b in zip(without, cached, strict=True)]),
                "same_tokens": sum(a.ids == b.ids for a, b in zip(without, cached, strict=True)),
            }
        )
    return points


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folders = FOGHORN / "model", FOGHORN / "sae"
        if args.shape:
            folders = shapes.make(args.shape, Path(scratch))
        points = measure(args, *folders)
    print("turn  prompt  cached   ttft ms  with cache  times")
    for p in points:
        print(
            f"{p['turn']:>4} {p['prompt_tokens']:>7} {p['cached_tokens']:>7}"
            f" {p['ttft_ms']:>9} {p['cached_ttft_ms']:>11} {p['ratio']:>6}"
        )
    head = {"benchmark": "chat", "model": args.shape or "foghorn", "edits": args.edits}
    print(json.dumps({**head, "threads": torch.get_num_threads(), "turns": points}))


if __name__ == "__main__":
    main()
