"""Replies, marked: do they show the concept, do they loop, how much do they surprise the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .fluency import LOOPING, Nats, Scale, loops, pooled
from .forced import Messages, Teacher


class Said(NamedTuple):
    """A reply to mark, and what tells whether it shows the concept."""

    messages: Messages
    reply: str
    shows: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Heard:
    """A marked reply. nats: under the unsteered model, given the messages."""

    text: str
    shows: bool
    loops: float
    nats: Nats


def mark(teacher: Teacher, said: Sequence[Said]) -> list[Heard]:
    rows = [teacher.spoken(s.messages, s.reply) for s in said]
    return [
        Heard(s.reply, s.shows(s.reply), loops(row.ids), nats)
        for s, row, nats in zip(said, rows, teacher.nats(rows), strict=True)
    ]


def showing(heard: Sequence[Heard]) -> float:
    """The share of replies that show the concept."""
    return sum(h.shows for h in heard) / len(heard)


def sound(heard: Sequence[Heard]) -> list[Heard]:
    """Those that neither loop nor are empty."""
    return [h for h in heard if h.nats.tokens and h.loops <= LOOPING]


def scale_of(own: Sequence[Heard], garbled: Sequence[Nats]) -> Scale:
    """The scale that a model's own replies set, with the same ones garbled."""
    share = len(sound(own)) / len(own)
    return Scale(pooled([h.nats for h in own]), pooled(garbled), max(share, 1 / len(own)))


def fluency(heard: Sequence[Heard], scale: Scale) -> float:
    """0 to 1, of all replies together. Those that loop or are empty count as 0, as far as there are
    more of them than among the model's own.
    """
    fit = sound(heard)
    share = min(1.0, len(fit) / len(heard) / scale.sound)
    return scale.fluency(pooled([h.nats for h in fit])) * share
