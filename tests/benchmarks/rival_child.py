"""One rival in a process of its own: works lines of JSON from stdin, answers each on stdout.

    python rival_child.py rival_generate:Alone

The first line is a Work, answered by what the rival is; every other is a Job, answered by the
seconds it took and the tokens. Whatever the rival prints goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

from rival_work import Job, Work


def why(error: BaseException) -> str:
    """The error's kind and its first line."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


def answers(subject_class: str) -> Any:
    """A generator of answers, to be sent lines."""
    line = yield
    work = Work.of(line)
    import torch

    torch.set_num_threads(work.threads)
    module, _, name = subject_class.partition(":")
    subject = getattr(importlib.import_module(module), name)(work)
    cpu = getattr(subject, "cpu", time.process_time)
    answer: dict[str, Any] = {
        key: getattr(subject, key) for key in ("version", "op", "batch", "shared")
    }
    try:
        while True:
            job = Job.of((yield answer))
            wall, spent = time.perf_counter(), cpu()
            ids = subject.run(job)
            wall, spent = time.perf_counter() - wall, cpu() - spent
            if ids is not None and {len(row) for row in ids} != {job.tokens}:
                made = sorted({len(row) for row in ids})
                raise RuntimeError(f"asked for {job.tokens} tokens a reply, made {made}")
            answer = {"wall": wall, "cpu": spent, "ids": ids}
    finally:
        getattr(subject, "close", lambda: None)()


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    running = answers(sys.argv[1])
    next(running)
    for line in sys.stdin:
        try:
            answer = running.send(line)
        except Exception as error:
            import traceback

            traceback.print_exc()
            print(json.dumps({"error": why(error)}), file=out, flush=True)
            return
        print(json.dumps(answer), file=out, flush=True)
    running.close()


if __name__ == "__main__":
    main()
