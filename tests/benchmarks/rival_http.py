"""Steerdeck as it is used: a server, its client on the same machine, streams of server-sent events.

The prompts are the others', but over HTTP template tokens are not steered: what is made is not
compared with theirs. Eager, as a server is unless asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from typing import Any
from urllib.request import urlopen

from hosting import serving
from rival_work import Job, Work
from traffic import drive

from server.receipt import versions


class Served:
    version = versions()["steerdeck"]
    op, batch, shared = "clamp", "continuous", False

    def __init__(self, work: Work) -> None:
        self.work = work
        self.stack = ExitStack()
        server = serving(work.model, work.sae, page=False, threads=work.threads)
        self.server = self.stack.enter_context(server)
        with urlopen(f"{self.server.url}/v1/models") as response:
            self.model = json.load(response)["data"][0]["id"]

    def run(self, job: Job) -> None:
        bodies = [
            self.body(row, edits, job) for row, edits in zip(job.rows, job.features, strict=True)
        ]
        made = asyncio.run(drive(self.server.url, bodies, len(bodies)))
        for reply in made.replies:
            sizes = reply.prompt_tokens, reply.completion_tokens, reply.edits
            asked = len(self.work.prompts[0]), job.tokens, len(job.features[0])
            if sizes != asked:
                raise RuntimeError(f"asked for (prompt, reply, edits) {asked}, answered {sizes}")

    def body(self, row: int, features: list[int], job: Job) -> dict[str, Any]:
        edits = [
            {"feature": i, "op": job.op, "strength": self.work.strength, "unit": "raw"}
            for i in features
        ]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": self.work.texts[row]}],
            "max_completion_tokens": job.tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "steering": {"edits": edits},
        }

    def cpu(self) -> float:
        """The server's and the client's, which is part of what a user's machine does."""
        return (self.server.cpu() or 0.0) + time.process_time()

    def close(self) -> None:
        self.stack.close()
