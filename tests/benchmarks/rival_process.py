"""The process of one rival: started, asked line by line, stopped."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

from hosting import REPO
from rival_env import Rival, Unavailable
from rival_work import Job, Work

HERE = Path(__file__).parent


class Process:
    """Raises Unavailable when it ends, fails or does not answer in time, from whatever call."""

    def __init__(self, rival: Rival, python: Path, work: Work, log: Path, limit: float) -> None:
        self.log = log
        # the venv's folder: `python` may be a link to another interpreter, and is not followed
        venv = python.parent.parent
        preload = [str(venv / path) for path in rival.preload if (venv / path).exists()]
        env = os.environ | {
            "PYTHONPATH": str(REPO),
            "OMP_NUM_THREADS": str(work.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PATH": f"{python.parent}:{os.environ['PATH']}",
        }
        if not os.access(python, os.X_OK):
            raise Unavailable(f"{python} is no interpreter that can be run")
        if preload:
            env["LD_PRELOAD"] = ":".join(preload)
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [python, HERE / "rival_child.py", rival.subject],
                env=env,
                cwd=log.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # so that what it has started ends with it
            )
        self.facts = self.ask(work.json(), limit)

    def run(self, job: Job, limit: float) -> dict[str, Any]:
        return self.ask(job.json(), limit)

    def ask(self, line: str, limit: float) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._end(f"its process ended: {self._last_words()}")
        ready, _, _ = select.select([self.process.stdout], [], [], limit)
        if not ready:
            self._end(f"no answer within {limit:.0f} s")
        said = self.process.stdout.readline()
        if not said:
            self._end(f"its process ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(said)
        if "error" in answer:
            self._end(answer["error"])
        return answer

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "without a word"

    def _end(self, why: str) -> None:
        self.close()
        raise Unavailable(why if len(why) <= 160 else why[:157] + "...")

    def close(self) -> None:
        """Its stdin ends, which ends it; killed if it does not."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
