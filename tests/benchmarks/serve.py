"""How fast a running Steerdeck is, steered and unsteered, and against plain `generate` with a hook.

    python tests/benchmarks/serve.py                              a server of its own, with foghorn
    python tests/benchmarks/serve.py --shape small                random weights of foghorn's shape
    python tests/benchmarks/serve.py --shape 135m                 ... and of SmolLM2's
    python tests/benchmarks/serve.py --url http://127.0.0.1:8000  one that is already running

Every round visits each number of concurrent replies, unsteered and steered back to back (in turned
order every other round), then `generate` doing the same clamps one request at a time: the ratios
are taken within a round, so a machine that is busy now and idle later does not decide them.
Replies end where the model ends them, and tokens are those the server's `usage` counts: a model
that ends its steered replies sooner spends more on prompts, which random weights do not. The
server and `generate` each run on the threads that they are fastest on. A server given by its URL
may keep prompts, which come again in every round, where one of the benchmark's own keeps none: what
that saved it is told beside the ratios to `generate`. The client runs on the same machine and its
work is part of every number. What the memory allows is printed first, and the last line on stdout
is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# as the server does, and before torch is imported: `generate` is measured on the same terms
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shapes
import torch
import transformers
from hosting import REPO, Server, serving
from plain import Plain, Spent, stream_read
from report import Point, middle, ratio, summary, table
from traffic import Round, body, drive

FOGHORN = REPO / "dictionaries" / "foghorn"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", help="a running server; default: one of the benchmark's own")
    parser.add_argument("--model", help="its model: a name or a folder; default: foghorn")
    parser.add_argument("--dictionary", help="its SAE folder")
    parser.add_argument("--no-page", action="store_true", help="start the server without its page")
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), help="random weights instead")
    parser.add_argument("--concurrent", default="1,8,32", help="replies at the same time")
    parser.add_argument("--edits", type=int, default=8, help="edited features of a steered reply")
    parser.add_argument("--strength", type=float, default=0.5, help="of each clamp, in activations")
    parser.add_argument("--max-tokens", type=int, default=48, help="of each reply")
    parser.add_argument("--requests", type=int, default=2, help="per concurrent reply and round")
    parser.add_argument(
        "--seconds", type=float, default=120, help="no round starts later than this"
    )
    parser.add_argument("--rounds", type=int, default=15, help="at most")
    parser.add_argument("--key", default=os.environ.get("STEERDECK_API_KEY"), help="API key")
    return parser.parse_args(argv)


@contextmanager
def subject(args: argparse.Namespace) -> Iterator[tuple[Server, tuple[Path, Path] | None]]:
    """The server under test, and the folders of its model and SAE where they are known."""
    folders = None
    if args.dictionary:
        folders = Path(args.model or "foghorn"), Path(args.dictionary)
    elif not args.url and args.model in (None, "foghorn"):
        folders = FOGHORN / "model", FOGHORN / "sae"
    with tempfile.TemporaryDirectory() as scratch:
        if args.url:
            yield Server(args.url.rstrip("/"), None), folders
            return
        if args.shape:
            folders = shapes.make(args.shape, Path(scratch))
            args.model, args.dictionary = map(str, folders)
        with serving(args.model or "foghorn", args.dictionary, page=not args.no_page) as server:
            yield server, folders


def get(url: str, path: str, key: str | None) -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with urllib.request.urlopen(urllib.request.Request(url + path, headers=headers)) as response:
        return json.load(response)


def clamps(index: int, count: int, strength: float, d_sae: int) -> list[dict[str, Any]]:
    """The edits of request number `index`: features no other of the next d_sae / count has."""
    ids = [(index * count + i) % d_sae for i in range(count)]
    return [{"feature": id, "op": "clamp", "strength": strength, "unit": "raw"} for id in ids]


class Benchmark:
    def __init__(self, args: argparse.Namespace, server: Server, plain: Plain | None) -> None:
        self.args, self.server, self.plain = args, server, plain
        self.model = get(server.url, "/v1/models", args.key)["data"][0]["id"]
        self.d_sae = get(server.url, "/v1/dictionaries", args.key)["data"][0]["d_sae"]
        self.points = {
            (n, steered): Point(n, steered)
            for n in map(int, args.concurrent.split(","))
            for steered in (False, True)
        }
        self.generated: list[Spent] = []

    def edits(self, index: int) -> list[dict[str, Any]]:
        return clamps(index, self.args.edits, self.args.strength, self.d_sae)

    def visit(self, concurrent: int, steered: bool) -> tuple[Round, float | None]:
        requests = [
            body(self.model, i, self.args.max_tokens, self.edits(i) if steered else [])
            for i in range(concurrent * self.args.requests)
        ]
        before = self.server.cpu()
        done = asyncio.run(drive(self.server.url, requests, concurrent, self.args.key))
        if any(reply.edits != self.args.edits * steered for reply in done.replies):
            raise RuntimeError("a reply does not report the edits it was asked for")
        after = self.server.cpu()
        return done, None if before is None or after is None else after - before

    def warm_up(self) -> None:
        for concurrent, steered in self.points:
            self.visit(concurrent, steered)
        if self.plain:
            self.plain.run([0], 4, [self.edits(0)])

    def run(self) -> None:
        deadline = time.monotonic() + self.args.seconds
        for number in range(self.args.rounds):
            if number and time.monotonic() > deadline:
                break
            for concurrent in dict.fromkeys(n for n, _ in self.points):
                for steered in (False, True) if number % 2 else (True, False):
                    done, cpu = self.visit(concurrent, steered)
                    self.points[concurrent, steered].rounds.append(done)
                    if cpu is not None:
                        self.points[concurrent, steered].cpu.append(cpu)
            if self.plain:
                indices = range(2 * self.args.requests)
                edits = [self.edits(i) for i in indices]
                self.generated.append(self.plain.run(indices, self.args.max_tokens, edits))

    def results(self) -> dict[str, Any]:
        alone = [s.tokens / s.wall for s in self.generated]
        alone_cpu = [s.tokens / s.cpu for s in self.generated]
        sizes = list(dict.fromkeys(n for n, _ in self.points))
        at = self.points
        return {
            "points": [point.row() for point in at.values()],
            "cached_prompt_tokens": sum(point.cached for point in at.values()),
            "steered_over_unsteered": {
                n: {
                    "tokens_per_s": ratio(at[n, True].rates, at[n, False].rates),
                    "tokens_per_cpu_s": ratio(at[n, True].cpu_rates, at[n, False].cpu_rates),
                }
                for n in sizes
            },
            "generate": {
                "tokens_per_s": middle(alone),
                "tokens_per_cpu_s": middle(alone_cpu),
            },
            "steered_over_generate": {
                n: {
                    "tokens_per_s": ratio(at[n, True].rates, alone),
                    "tokens_per_cpu_s": ratio(at[n, True].cpu_rates, alone_cpu),
                }
                for n in sizes
            },
        }


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    transformers.utils.logging.disable_progress_bar()
    speed = stream_read()
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, ",
        end="",
    )
    print(f"transformers {transformers.__version__}: memory reads at {speed:.1f} GB/s")
    with subject(args) as (server, folders):
        plain = Plain(*folders) if folders and folders[0].is_dir() else None
        size = plain.megabytes if plain else None
        ceiling = round(speed * 1e3 / size, 1) if size else None
        if size:
            print(
                f"a step reads {size:.0f} MB of weights: at most {ceiling} tokens/s for one reply"
            )
        idle, cpu = server.memory("VmRSS"), server.cpu()
        bench = Benchmark(args, server, plain)
        bench.warm_up()
        bench.run()
        peak = server.memory("VmHWM")
        results = bench.results()
    print(f"server ready after {server.ready_after} s ({cpu} s of CPU), ", end="")
    print(f"{idle} MB idle, {peak} MB at its peak\n")
    print(table(results), summary(results), sep="\n\n", end="\n\n")
    head = {
        "benchmark": "serve",
        "model": bench.model,
        "threads": {"server": server.threads, "generate": plain.threads if plain else None},
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "edits": args.edits,
        "max_tokens": args.max_tokens,
        "memory_gb_per_s": round(speed, 1),
        "step_mb": round(size) if size else None,
        "ceiling_tokens_per_s": ceiling,
        "ready_s": server.ready_after,
        "ready_cpu_s": cpu,
        "idle_mb": idle,
        "peak_mb": peak,
    }
    print(json.dumps({**head, **results}))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops our server on the way out
    main()
