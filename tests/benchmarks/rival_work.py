"""What every rival is given and asked, in plain data: no package of ours, torch only where needed.

A rival is a class made from a Work, with

    version   what it says of itself
    op        clamp or add, or none for one that cannot steer
    batch     how it makes several replies at once: continuous (each comes and goes when it likes),
              static (all begin and end together), or None (one after another)
    shared    whether all replies made at once have one configuration
    run(job)  the new tokens of every row, or None where they are not told
    cpu()     seconds used so far, by its other processes too; close(): both may be left out

It is made by an interpreter of its own, with this folder and the repo on its path.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Work:
    """Token ids are all of one length, so that a static batch needs no padding.

    kept: a folder for what is worth keeping between runs, such as compiled code.
    """

    model: str
    sae: str
    layer: int  # whose output is steered
    prompts: list[list[int]]
    texts: list[str]  # the user's part of each prompt
    features: list[list[int]]  # those that each request edits
    strength: float  # in activations
    threads: int
    kept: str

    @classmethod
    def of(cls, line: str) -> Work:
        return cls(**json.loads(line))

    def json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    def decoder(self, features: list[int]) -> Any:
        """Rows of W_dec, [k, d_model] float32."""
        from safetensors import safe_open

        with safe_open(Path(self.sae) / "sae_weights.safetensors", "pt") as file:
            return file.get_slice("W_dec")[:][features].clone()

    def pushes(self, features: list[list[int]]) -> Any:
        """What adding each row's features adds to its residual, [rows, d_model]."""
        import torch

        return torch.stack([self.strength * self.decoder(row).sum(0) for row in features])


@dataclass(frozen=True)
class Job:
    """Replies to make at once: request number `rows[i]` with the edits of `features[i]`."""

    rows: list[int]
    features: list[list[int]]
    op: str
    tokens: int

    @classmethod
    def of(cls, line: str) -> Job:
        return cls(**json.loads(line))

    def json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def greedy(tokens: int) -> dict[str, Any]:
    """`generate`'s arguments for exactly so many tokens, the likeliest each time."""
    return {
        "max_new_tokens": tokens,
        "min_new_tokens": tokens,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
