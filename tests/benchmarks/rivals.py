"""How fast Steerdeck is beside what else steers a model on this machine, in one run.

    python tests/benchmarks/rivals.py --venvs DIR --install          make their venvs, then measure
    python tests/benchmarks/rivals.py --venvs DIR                    measure those that are there
    python tests/benchmarks/rivals.py --shape small --tokens 8 --rounds 1           a quick look
    python tests/benchmarks/rivals.py --only steerdeck,saelens --python saelens=PATH

Every rival has a process and an interpreter of its own, and all of them the same random weights,
prompts (token ids of one length), edits, threads (which wait passively, as a server's do) and
number of greedy tokens; the end of a text is ignored. The weights are published in bfloat16, as
nearly all models' are, and everybody computes in float32 unless its name says otherwise. The edit
is a clamp of SAE features at one layer, on every token; who only adds vectors adds the features'
decoder rows. They take turns in every round, first with one reply, then with several at once if
they can, and ratios are taken within a round. The time of a reply includes its prompt's. A static
batch is what an offline script can do: its replies have prompts of one length, and begin and end
together, as a service's never do.

Before that, everybody's first tokens are compared with those of `generate` and a hook that make
the same edits ("same tokens" in the table). What did not run is a row that says why. stdout has the
table and one line of JSON. The first run of a shape also compiles, for minutes: once, if --venvs
gives it a folder to keep that in.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import shapes
import torch
from plain import stream_read
from rival_env import RIVALS
from rival_race import Race
from rival_report import against, comparison, table
from rival_work import Work
from traffic import PROMPTS

NUMBERS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
FACTS = ("numbers", "tokens", "prompt", "edits", "threads")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), default="135m")
    parser.add_argument("--numbers", choices=sorted(NUMBERS), default="bfloat16", help="published")
    parser.add_argument("--concurrent", default="1,8", help="replies at the same time")
    parser.add_argument("--tokens", type=int, default=64, help="of each reply")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of each prompt")
    parser.add_argument("--edits", type=int, default=1, help="clamped features of each reply")
    parser.add_argument("--strength", type=float, default=60.0, help="of each, in activations")
    parser.add_argument("--check", type=int, default=8, help="first tokens that are compared")
    parser.add_argument("--rounds", type=int, default=3, help="at most")
    parser.add_argument(
        "--seconds", type=float, default=330, help="no round starts that would end later than this"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of everybody")
    names = [rival.name for rival in RIVALS]
    parser.add_argument("--only", default=",".join(names), help=f"of {', '.join(names)}")
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="a rival's interpreter"
    )
    parser.add_argument("--venvs", type=Path, help="folder of the rivals' venvs and compiled code")
    parser.add_argument("--install", action="store_true", help="make the venvs that are missing")
    parser.add_argument("--torch-index", help="where pip finds the CPU build of torch, if not here")
    parser.add_argument("--limit", type=float, default=240, help="seconds to wait for any answer")
    args = parser.parse_args(argv)
    args.sizes = sorted({1, *map(int, args.concurrent.split(","))})
    args.only = args.only.split(",")
    for name in {*args.only, *(given.partition("=")[0] for given in args.python)} - {*names}:
        parser.error(f"{name} is none of {', '.join(names)}")
    if args.install and not args.venvs:
        parser.error("--install needs --venvs DIR")
    return args


def work(args: argparse.Namespace, scratch: Path) -> Work:
    """A model, an SAE and as many prompts as the most replies at once."""
    kept = (args.venvs or scratch).absolute() / "kept"
    kept.mkdir(parents=True, exist_ok=True)
    published = kept / args.numbers
    model, sae = published / args.shape, published / f"{args.shape}-sae"
    if not (sae / "cfg.json").exists():  # written last; seeded, so another would be the same
        shutil.rmtree(sae, ignore_errors=True)
        published.mkdir(exist_ok=True)
        shapes.make(args.shape, published, dtype=NUMBERS[args.numbers])
    shape = shapes.SHAPES[args.shape]
    tokenizer = shapes.tokenizer(shape["vocab_size"])
    count = max(args.sizes)
    letters = args.prompt - 3  # a token each; the template adds three
    if letters < 1:
        raise SystemExit(f"--prompt {args.prompt} leaves no text: the chat template alone has 3")
    texts = [(f"{PROMPTS[i % len(PROMPTS)]} " * letters)[:letters] for i in range(count)]
    ids = []
    for text in texts:
        chat = [{"role": "user", "content": text}]
        said = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids.append(tokenizer(said)["input_ids"])
    return Work(
        str(model),
        str(sae),
        shape["num_hidden_layers"] // 2,
        ids,
        texts,
        [[i * args.edits + j for j in range(args.edits)] for i in range(count)],
        args.strength,
        args.threads,
        str(kept),
    )


def memory(threads: int) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return round(stream_read(), 1)
    finally:
        torch.set_num_threads(before)


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    speed = memory(args.threads)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        race = Race(args, work(args, Path(folder)), Path(folder))
        race.run(stack)
    print(
        f"{platform.machine()}, {args.threads} threads, memory reads at {speed} GB/s; {args.shape} "
        f"shape, {args.prompt} + {args.tokens} tokens, {args.edits} edits a reply"
    )
    if race.moved is not None:
        said = f"the edits change the first {args.check} tokens of {race.moved}/{max(args.sizes)}"
        print(said if race.moved else f"{said}: raise --strength, or their agreement says nothing")
    print(f"\n{table(race.entries, args.sizes)}\n")
    measured = [entry for entry in race.entries if entry.rates]
    ours = [entry for entry in measured if entry.rival.ours]
    others = [entry for entry in measured if not entry.rival.ours]
    for entry in ours if others else ():
        print(comparison(entry, others), end="\n\n")
    told = {
        "benchmark": "rivals",
        "model": args.shape,
        **{key: getattr(args, key) for key in FACTS},
        "torch": torch.__version__,
        "memory_gb_per_s": speed,
        "changed_by_edits": race.moved,
        "rivals": [entry.row() for entry in race.entries],
        "ours_over_theirs": {
            entry.rival.name: {other.rival.name: against(entry, other) for other in others}
            for entry in ours
        },
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
