"""Measures what an edit does: on given replies exactly, and on replies that it makes.

Everything is measured on the same neutral prompts, against the model's own unsteered replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..dictionary import Dictionary
from ..edits import EditTable, FeatureRows, Op, frame, read
from ..errors import DictionaryError
from .feed import limit_of, usual
from .fluency import Scale, pooled
from .forced import Teacher, garbled
from .handles import Handle
from .heard import Heard, Said, fluency, mark, scale_of, showing, sound
from .neutral import said
from .subject import Ask, Change, Speaker, Subject


class Trial(NamedTuple):
    """An edit to try; strength in multiples of the handle's maximum.

    seed None: on the unsteered replies, teacher-forced. Otherwise new replies are made with it.
    """

    handle: Handle
    op: Op
    strength: float
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Push:
    """On the unsteered replies: mean probability of the handle's tokens, and mean KL divergence
    KL(steered || unsteered) in nats, over the places that predict a token of a reply.
    """

    op: Op
    strength: float
    mass: float
    kl: float


@dataclass(frozen=True, slots=True)
class Replies:
    """What was said at one op and strength; more may be added to it."""

    op: Op
    strength: float
    heard: tuple[Heard, ...]
    scale: Scale

    @property
    def shows(self) -> float:
        return showing(self.heard)

    @property
    def unsound(self) -> float:
        """The share of replies that loop or are empty, beyond that of the model's own."""
        return max(0.0, self.scale.sound - len(sound(self.heard)) / len(self.heard))

    @property
    def fluency(self) -> float:
        return fluency(self.heard, self.scale)

    def plus(self, other: Replies) -> Replies:
        return Replies(self.op, self.strength, self.heard + other.heard, self.scale)

    def told(self) -> dict[str, Any]:
        """For a file; of the replies, one."""
        return {
            "op": self.op,
            "strength": self.strength,
            "replies": len(self.heard),
            "shows": self.shows,
            "fluency": self.fluency,
            "unsound": self.unsound,
            "nats": pooled([h.nats for h in self.heard]),
            "example": next((h.text for h in self.heard if h.shows), self.heard[0].text),
        }


class Gauge:
    """A subject and a speaker, with the unsteered replies to measure against.

    scale: of fluency. unlike: mean KL between the model's own predictions at unrelated places.
    length: of a typical residual, on content tokens that are no sinks (see `feed.usual`). back:
    what the dictionary's norm multiplies a change by, on those tokens. All four come from the
    unsteered replies. Raises DictionaryError where the model says nothing to all prompts.
    """

    def __init__(
        self,
        subject: Subject,
        speaker: Speaker,
        dictionary: Dictionary,
        prompts: Sequence[str],
        *,
        tokens: int = 24,
        seed: int = 0,
    ) -> None:
        self.teacher = Teacher(subject)
        self._subject, self._speaker = subject, speaker
        self._prompts, self._tokens, self._seed = tuple(prompts), tokens, seed
        asks = [self._ask(prompt, 0) for prompt in self._prompts]
        self.own = speaker(asks)
        if not any(self.own):
            raise DictionaryError(
                f"the model answered the {len(self.own)} neutral messages with nothing, so there "
                "is nothing to tell steering by: give more prompts, or a model that answers."
            )
        pairs = list(zip(self._prompts, self.own, strict=True))
        spoken = [self.teacher.spoken(said(prompt), reply) for prompt, reply in pairs]
        own = mark(self.teacher, [Said(said(prompt), reply, _never) for prompt, reply in pairs])
        self.scale = scale_of(own, self.teacher.nats([garbled(row, seed) for row in spoken]))
        self._forced = self.teacher.batch(spoken)
        logits = subject.logits(self._forced.windows)
        self._predicts = self._forced.predicts.to(logits.device)
        self._base = logits[self._predicts].log_softmax(-1)  # [places, vocab]
        self.unlike = float(_kl(self._base.roll(len(self._base) // 2, 0), self._base).mean())
        self._see_residuals(dictionary)

    def _see_residuals(self, dictionary: Dictionary) -> None:
        x = self._subject.residual(self._forced.windows)
        x = x[self._forced.windows.content.to(x.device)]
        self._h, back = frame(x, dictionary.info.norm)
        reads = dictionary.info.reads_exactly
        self._cutoff = dictionary.cutoff(self._h) if reads else None
        words = usual(x, limit_of(x))
        self.length = float(x[words].norm(dim=-1).mean())
        self.back = 1.0 if back is None else float(back[words].mean())

    def sleeps(self, handle: Handle) -> bool:
        """Whether it fires nowhere on the unsteered replies, so that there add equals clamp."""
        rows = _to(handle.rows, self._h.device)
        return not bool(read(self._h, rows, self._cutoff).any())

    def mass(self, handle: Handle) -> float:
        """The unsteered probability of its tokens."""
        return float(self._base[:, list(handle.tokens)].exp().sum(-1).mean())

    def shows(self, handle: Handle) -> float:
        """The share of unsteered replies that show it."""
        return sum(map(handle.shows, self.own)) / len(self.own)

    def pushes(self, trials: Sequence[Trial]) -> list[Push]:
        """Exact, without sampling: as many trials in one forward pass as memory is meant for."""
        rows, tokens = self._predicts.shape
        step = max(1, self.teacher.at_once(tokens) // rows)
        found: list[Push] = []
        for start in range(0, len(trials), step):
            found += self._pushed(trials[start : start + step])
        return found

    def _pushed(self, trials: Sequence[Trial]) -> list[Push]:
        n, rows = len(trials), len(self._predicts)
        windows = type(self._forced.windows)(*(t.repeat(n, 1) for t in self._forced.windows))
        logits = self._subject.logits(windows, change(trials, rows))
        steered = logits[self._predicts.repeat(n, 1)].log_softmax(-1)
        found = []
        for trial, log_p in zip(trials, steered.view(n, *self._base.shape), strict=True):
            mass = log_p[:, list(trial.handle.tokens)].exp().sum(-1).mean()
            kl = _kl(log_p, self._base).mean()
            found.append(Push(trial.op, trial.strength, float(mass), float(kl)))
        return found

    def replies(self, trials: Sequence[Trial]) -> list[Replies]:
        """Make and measure a reply to every prompt under every trial, all in one go."""
        asked = [(trial, prompt) for trial in trials for prompt in self._prompts]
        replies = self._speaker([self._ask(p, t.seed or 0, t) for t, p in asked])
        told = [
            Said(said(prompt), reply, trial.handle.shows)
            for (trial, prompt), reply in zip(asked, replies, strict=True)
        ]
        heard = mark(self.teacher, told)
        n = len(self._prompts)
        return [
            Replies(t.op, t.strength, tuple(heard[i * n : (i + 1) * n]), self.scale)
            for i, t in enumerate(trials)
        ]

    def _ask(self, prompt: str, seed: int, trial: Trial | None = None) -> Ask:
        edits = () if trial is None else (trial.handle.edited(trial.op, trial.strength),)
        return Ask(said(prompt), edits, seed=self._seed + seed, max_tokens=self._tokens)

    def told(self) -> dict[str, Any]:
        """What everything was measured against, for a file."""
        return {
            "residual_length": self.length,
            "unlike_kl": self.unlike,
            "scale": self.scale._asdict(),
            "unsteered": dict(zip(self._prompts, self.own, strict=True)),
        }


def change(trials: Sequence[Trial], rows: int) -> Change:
    """Each trial's edit on `rows` rows of the batch, one trial after the other."""

    def wide(name: str) -> Tensor:
        each = torch.stack([getattr(trial.handle.rows, name) for trial in trials])
        return (each if each.dim() == 3 else each[:, None]).repeat_interleave(rows, 0)

    table = EditTable.of([t.op.edit(t.strength * t.handle.maximum) for t in trials])
    columns = (table.scale, table.shift, table.floor, table.ceiling)
    return Change(
        FeatureRows(**{field.name: wide(field.name) for field in fields(FeatureRows)}),
        EditTable(*(c.repeat_interleave(rows)[:, None, None] for c in columns)),
    )


def _never(_reply: str) -> bool:
    return False


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _to(rows: FeatureRows, device: torch.device) -> FeatureRows:
    return FeatureRows(*(getattr(rows, f.name).to(device) for f in fields(rows)))
