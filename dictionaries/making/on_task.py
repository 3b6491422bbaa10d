"""Does a reply still belong to its prompt? The unsteered model is asked which of a few it fits.

A reply is on task if its own prompt makes it likelier than three others do (than all others, where
those are fewer). By chance a quarter is; even the model's own replies are not always ("That is
nice!" fits anything), so their rate is told beside the steered ones'.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from .forced import Teacher
from .heard import Heard
from .neutral import said

OTHERS = 3


def choices(prompts: int) -> int:
    """How many prompts a reply is tried under: once in so many its own is likeliest by chance."""
    return 1 + min(OTHERS, prompts - 1)


def on_task(
    teacher: Teacher, prompts: Sequence[str], asked: Sequence[str], heard: Sequence[Heard]
) -> list[bool]:
    """One for each reply. prompts: all there are, of which others are drawn, the same ones for the
    same prompt and place. asked: the prompt of each reply. heard: marked under that prompt alone.
    """
    rows, owners = [], []
    for i, (prompt, reply) in enumerate(zip(asked, heard, strict=True)):
        others = [p for p in prompts if p != prompt]
        drawn = random.Random(f"{prompt}/{i}").sample(others, choices(len(prompts)) - 1)
        rows += [teacher.spoken(said(other), reply.text) for other in drawn]
        owners += [i] * len(drawn)
    fits = [bool(h.nats.tokens) for h in heard]
    for i, nats in zip(owners, teacher.nats(rows), strict=True):
        fits[i] = fits[i] and heard[i].nats.total < nats.total
    return fits
