"""The same neutral messages put to every way of steering, and the replies marked alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import DictionaryError
from .fluency import Scale, harmonic
from .forced import Messages, Teacher, garbled
from .heard import Heard, Said, fluency, mark, scale_of, showing
from .neutral import EVALUATION, said
from .on_task import on_task
from .subject import Ask, Edited, Speaker

BEST = 2.0  # of AxBench's scale


@dataclass(frozen=True, slots=True)
class Plan:
    """prompts: how many of the neutral ones; seeds: replies to each; tokens: of a reply."""

    prompts: int = len(EVALUATION)
    seeds: int = 3
    tokens: int = 40
    seed: int = 0

    def messages(self) -> tuple[str, ...]:
        if not 2 <= self.prompts <= len(EVALUATION):
            raise DictionaryError(
                f"{self.prompts} prompts were asked for: there are {len(EVALUATION)}, and whether "
                "a reply is to its own takes 2."
            )
        return EVALUATION[: self.prompts]


@dataclass(frozen=True, slots=True)
class Scores:
    """concept, fluency, on_task: 0 to 1. harmonic: their harmonic mean times two, as AxBench's."""

    concept: float
    fluency: float
    on_task: float
    harmonic: float


@dataclass(frozen=True, slots=True)
class Marked:
    """The replies to one exam, in its order."""

    heard: tuple[Heard, ...]
    on_task: tuple[bool, ...]

    def scores(self, scale: Scale) -> Scores:
        three = showing(self.heard), fluency(self.heard, scale), sum(self.on_task) / len(self.heard)
        return Scores(*three, BEST * harmonic(*three))


class Exam:
    """asked: (prompt, seed) of every reply."""

    def __init__(self, teacher: Teacher, speaker: Speaker, plan: Plan) -> None:
        self.teacher, self._speaker, self._plan = teacher, speaker, plan
        self._prompts = plan.messages()
        seeds = range(plan.seed, plan.seed + plan.seeds)
        self.asked = [(prompt, seed) for seed in seeds for prompt in self._prompts]

    def answers(
        self, edited: Edited | None = None, messages: Sequence[Messages] | None = None
    ) -> list[str]:
        """messages: what to say instead of each bare prompt."""
        sent = messages or [said(prompt) for prompt, _ in self.asked]
        edits = (edited,) if edited else ()
        return self._speaker(
            [
                Ask(tuple(m), edits, seed=seed, max_tokens=self._plan.tokens)
                for m, (_, seed) in zip(sent, self.asked, strict=True)
            ]
        )

    def marked(self, replies: Sequence[str], shows: Callable[[str], bool]) -> Marked:
        """As replies to the bare prompts, whatever brought them about."""
        pairs = zip(self.asked, replies, strict=True)
        heard = mark(self.teacher, [Said(said(prompt), r, shows) for (prompt, _), r in pairs])
        fits = on_task(self.teacher, self._prompts, [prompt for prompt, _ in self.asked], heard)
        return Marked(tuple(heard), tuple(fits))

    def scale(self, unsteered: Marked) -> Scale:
        pairs = zip(self.asked, unsteered.heard, strict=True)
        rows = [self.teacher.spoken(said(prompt), h.text) for (prompt, _), h in pairs]
        salad = self.teacher.nats([garbled(row, self._plan.seed) for row in rows])
        return scale_of(unsteered.heard, salad)

    def told(self, marked: Marked) -> list[dict[str, Any]]:
        """Every reply, for a file."""
        return [
            {
                "prompt": prompt,
                "seed": seed,
                "reply": h.text,
                "shows": h.shows,
                "on_task": fits,
                "loops": h.loops,
                "nats": h.nats.total / max(1, h.nats.tokens),
            }
            for (prompt, seed), h, fits in zip(
                self.asked, marked.heard, marked.on_task, strict=True
            )
        ]

    def settings(self) -> dict[str, Any]:
        return {**asdict(self._plan), "prompts": self._prompts}
