"""A run: everybody is started, warmed up and compared, then they take turns, round by round."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rival_env import RIVALS, Rival, Unavailable, install, interpreter
from rival_process import Process
from rival_report import Entry
from rival_work import Job, Work

REFERENCE = "static"  # it makes every kind of edit, row by row


class Race:
    """All rivals of one run, and the process of each that is up."""

    def __init__(self, args: argparse.Namespace, work: Work, scratch: Path) -> None:
        self.args, self.work, self.scratch = args, work, scratch
        self.entries = [Entry(rival) for rival in RIVALS if rival.name in args.only]
        self.up: dict[str, Process] = {}
        self.moved: int | None = None

    def python(self, rival: Rival) -> Path:
        given = dict(one.split("=", 1) for one in self.args.python)
        if self.args.install and rival.packages and rival.name not in given:
            return install(rival, self.args.venvs, self.args.torch_index)
        paths = {name: Path(path).absolute() for name, path in given.items()}
        venvs = self.args.venvs and self.args.venvs.absolute()
        return interpreter(rival, paths, venvs)

    def start(self, entry: Entry, stack: ExitStack) -> None:
        name = entry.rival.name
        began = time.perf_counter()
        try:
            log = self.scratch / f"{name}.log"
            process = Process(
                entry.rival, self.python(entry.rival), self.work, log, self.args.limit
            )
        except Unavailable as error:
            entry.why = str(error)
        else:
            stack.callback(process.close)
            self.up[name] = process
            entry.facts = process.facts
        said = entry.why or f"up after {time.perf_counter() - began:.0f} s"
        print(f"{entry.rival.title}: {said}", file=sys.stderr)

    def job(self, entry: Entry, rows: list[int], tokens: int) -> Job:
        """Of a rival with one configuration for all, that is the first request's."""
        features = [self.work.features[0 if entry.facts["shared"] else row] for row in rows]
        return Job(rows, features, entry.facts["op"], tokens)

    def ask(self, entry: Entry, job: Job) -> dict[str, Any] | None:
        """None, and the entry says why, if it does not answer: it is out of the race."""
        try:
            return self.up[entry.rival.name].run(job, self.args.limit)
        except Unavailable as error:
            entry.why = str(error)
            del self.up[entry.rival.name]
            print(f"{entry.rival.title}: {error}", file=sys.stderr)
            return None

    def sizes(self, entry: Entry) -> list[int]:
        return self.args.sizes if entry.facts["batch"] else [1]

    def reference(self, job: Job) -> list[list[int]] | None:
        for entry in self.entries:
            if entry.rival.name == REFERENCE and REFERENCE in self.up:
                made = self.ask(entry, job)
                return made and made["ids"]
        return None

    def check(self, entry: Entry) -> None:
        """Warms it up at every size, and compares what it says with the reference."""
        for size in self.sizes(entry):
            job = self.job(entry, list(range(size)), min(self.args.check, self.args.tokens))
            made = self.ask(entry, job)
            if made is None:
                return
            right = self.reference(job) if made["ids"] else None
            if right:
                same = sum(a == b for a, b in zip(made["ids"], right, strict=True))
                entry.same = same, size

    def changed(self) -> int | None:
        """How many replies the edits change in these tokens: where none, equal ones say little."""
        rows = list(range(len(self.work.prompts)))
        tokens = min(self.args.check, self.args.tokens)
        steered, plain = (
            self.reference(Job(rows, self.work.features, op, tokens)) for op in ("clamp", "none")
        )
        if not steered or not plain:
            return None
        return sum(a != b for a, b in zip(steered, plain, strict=True))

    def round(self, number: int) -> None:
        """One reply of everybody, another request every round, then the larger numbers."""
        order = [entry for entry in self.entries if entry.rival.name in self.up]
        for entry in order[:: -1 if number % 2 else 1]:
            for size in self.sizes(entry):
                first = number % len(self.work.prompts) if size == 1 else 0
                job = self.job(entry, list(range(first, first + size)), self.args.tokens)
                made = self.ask(entry, job)
                if made is None:
                    break
                tokens = size * self.args.tokens
                entry.rates.setdefault(size, []).append(tokens / made["wall"])
                entry.cpu_rates.setdefault(size, []).append(tokens / max(made["cpu"], 1e-9))

    def run(self, stack: ExitStack) -> None:
        began = time.perf_counter()
        for entry in self.entries:
            self.start(entry, stack)
        for entry in self.entries:
            if entry.rival.name in self.up:
                self.check(entry)
        self.moved = self.changed()
        taken = 0.0
        for number in range(self.args.rounds):
            now = time.perf_counter()
            if number and now - began + taken > self.args.seconds:
                break
            self.round(number)
            taken = time.perf_counter() - now
            print(f"round {number + 1} took {taken:.0f} s", file=sys.stderr)
