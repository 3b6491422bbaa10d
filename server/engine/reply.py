"""One reply while it is made: everything the engine's thread keeps for it."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from torch import Tensor

from .conditions import Condition, Met, Seen
from .contrast import Difference
from .decoding import Vocabulary, Writer
from .guard import Alarm, Mode
from .notes import Notes
from .prefix import Trail
from .preparing import Prepared, Turn
from .regions import Region
from .sampling import Choice, Sampler
from .scheduler import Ticket
from .shadow import Shadow
from .stream import Stream
from .tables import Phase
from .telling import told
from .types import Change, Delta, Finish, FinishReason, Reading, Request
from .warden import Verdict, Warden
from .watch import NEVER


class Reply(Ticket):
    def __init__(
        self,
        request: Request,
        stream: Stream,
        turns: deque[Turn],
        vocabulary: Vocabulary,
        warden: Warden | None = None,
    ) -> None:
        super().__init__(length=len(request.prompt))
        self.request = request
        self.stream = stream
        self.sampler = Sampler(request.sampling, request.prompt)
        self.turns = turns  # the first at 0; those to come
        self.steered: Prepared | None = None
        self.timeline: list[Change] = []
        self.count = 0  # generated tokens
        self.last = -1  # the newest of them
        self.edited = 0  # positions at which an edit was active
        self.met: dict[Condition, int] = {}  # the position at which each first held
        self.aborted = False  # a condition holds that ends it
        self.region = Region(vocabulary.marks, request.prompt, request.steerable, raw=request.raw)
        self.cached = 0  # prompt positions that were not computed but known
        self.notes = Notes(request, vocabulary)
        self.trail = Trail()
        self.arithmetic: dict[str, None] = {}  # of all in its rows, in the order it came
        self.in_flight = False  # the step under way makes its next token
        self.cancelled = False
        self.restart = False  # compute the prompt anew: its steering changed meanwhile
        self.shadow = Shadow(self) if request.shadowed else None
        self.ended: Tensor | None = None  # the logits [vocab] its prompt ended in, if it is shared
        self.warden = warden
        self.alarms: list[Alarm] = []
        self._vocabulary = vocabulary
        self._writer = Writer(vocabulary, request.sampling.stop)

    @property
    def computed(self) -> int:
        """Positions whose keys and values are in the cache."""
        return self.done if self.count == 0 else self.length + self.count - 1

    @property
    def rows(self) -> tuple[Reply | Shadow, ...]:
        """All that the scheduler has of it."""
        return (self,) if self.shadow is None else (self, self.shadow)

    @property
    def untouched(self) -> bool:
        """No edit has been in force so far: this is the unsteered model."""
        return not any(change.steering.edits for change in self.timeline)

    @property
    def origin(self) -> Reply | Shadow:
        """Whose row has the prompt that this one takes over."""
        assert isinstance(self.source, Reply)
        return self.source

    @property
    def proved(self) -> bool:
        """Whether finite logits have shown that what its rows hold is finite."""
        return self.count > 0

    @property
    def touchable(self) -> bool:
        """Whether an edit may touch the newest token."""
        return self.last not in self._vocabulary.special and not self.region.calling

    @property
    def opening(self) -> Prepared:
        """What its prompt is steered by from its next step on."""
        due = [turn.prepared for turn in self.turns if turn.at <= 0]
        opening = due[-1] if due else self.steered
        assert opening is not None  # the first turn is at 0
        return opening

    def start_over_if_asked(self) -> bool:
        """Whether it was: nothing of its prompt counts as computed now."""
        if asked := self.restart:
            self.restart = False
            self.aborted, self.met = False, {}
            self.edited, self.cached, self.trail = 0, 0, Trail()
            self.notes, self.arithmetic = Notes(self.request, self._vocabulary), {}
            for ticket in self.rows:
                ticket.done = 0
        return asked

    def known_to(self, stop: int) -> None:
        """The prompt up to `stop` lies in its rows before the first step over it."""
        self.cached = stop
        self.edited += self._note(stop, self.opening)
        for ticket in self.rows:
            ticket.done = stop

    def computed_to(self, stop: int | None, seen: Seen | None) -> None:
        """A step ran: over the prompt up to `stop`, or (None) over the newest token.

        seen: what it showed, where the steering is timed.
        """
        assert self.steered is not None  # `due` comes before every step
        touched = self._note(stop, self.steered)
        if seen is not None:
            self._saw(seen)
        else:
            self.edited += touched

    def _note(self, stop: int | None, steered: Prepared) -> int:
        """Put what is in its rows now on the trail; the tokens edited, if all edits always act."""
        if stop is None:
            tokens: tuple[int, ...] = (self.last,)
            flags: tuple[bool, ...] = (self.touchable,)
            phase = Phase.GENERATED
        else:
            part = slice(self.done, stop)
            tokens, flags = self.request.prompt[part], self.request.steerable[part]
            phase, self.done = Phase.PROMPT, stop
        self.trail.add(tokens, flags, steered.marks[phase])
        return sum(flags) if steered.acts[phase] else 0

    def _saw(self, seen: Seen) -> None:
        assert self.steered is not None
        self.edited += seen.touched
        for condition, since in zip(self.steered.steering.conditions, seen.since, strict=True):
            if since < NEVER:
                self.met.setdefault(condition, since)
                self.aborted |= condition in self.steered.steering.aborts

    def due(self) -> Prepared | None:
        """The steering to switch to before the next step, noted in the timeline; None to keep."""
        new: Prepared | None = None
        while self.turns and self.turns[0].at <= self.count:
            new = self.turns.popleft().prepared
            if self.timeline and self.timeline[-1].at == self.count:
                self.timeline.pop()
            self.timeline.append(Change(self.count, new.steering))
        self.steered = new or self.steered
        return new

    def steer(self, prepared: Prepared) -> int:
        """Change the steering live; the changes still scheduled are dropped.

        Returns the token from which it holds. A prompt still being computed starts over, so that
        token 0 means the whole of it.
        """
        at = self.count + self.in_flight
        if self.alarms and self.alarms[-1].at == at - 1:  # its step back, if any, did not begin
            self.alarms[-1] = self._overtaken(self.alarms[-1])
        self.turns = deque([Turn(at, prepared)])
        if at == 0:
            self.restart = True
        return at

    def heed(
        self, verdict: Verdict, delta: Delta | None, reason: FinishReason | None
    ) -> tuple[Delta | None, FinishReason | None]:
        """What the guard found about the token just taken, added to what `accept` said of it.

        A lowered steering holds from the next token on and leaves later changes as they are
        scheduled. Where one came from outside meanwhile, or the reply ends with this token by
        itself, the guard only warns.
        """
        if delta is None or not delta.tokens:  # the token ends the turn and is none of the reply's
            return delta, reason
        alarm = verdict.alarm
        passed = bool(self.turns) and self.turns[0].at <= self.count
        if reason is not None or (verdict.lowered is not None and passed):
            alarm = self._overtaken(alarm)
        elif verdict.lowered is not None:
            self.turns.appendleft(Turn(self.count, verdict.lowered))
        self.alarms.append(alarm)
        delta = replace(delta, alarms=(alarm,))
        if alarm.action is Mode.STOP:
            return replace(delta, text=delta.text + self._writer.end()), FinishReason.GUARD
        return delta, reason

    def _overtaken(self, alarm: Alarm) -> Alarm:
        assert self.warden is not None
        self.warden.forget()
        return alarm.only_told()

    def accept(
        self,
        choice: Choice,
        eos: frozenset[int],
        readings: tuple[Reading, ...],
        difference: Difference | None,
    ) -> tuple[Delta | None, FinishReason | None]:
        """Take the next token: what it adds to the reply, and whether it ends it."""
        sampling = self.request.sampling
        if sampling.max_tokens == 0:
            return None, FinishReason.LENGTH
        ended = choice.token in eos and not sampling.ignore_eos
        if ended and not self.request.echo:
            return self.rest(), FinishReason.STOP
        self.count += 1
        self.last = choice.token
        self.region.enter(choice.token)
        self.sampler.chose(choice.token)
        text = self._writer.end() if ended else self._writer.write(choice.token)
        reason = None
        if ended or self._writer.stopped:
            reason = FinishReason.STOP
        elif self.count == sampling.max_tokens:
            reason, text = FinishReason.LENGTH, text + self._writer.end()
        return Delta(text, (told(self._vocabulary, choice, readings, difference),)), reason

    def rest(self) -> Delta | None:
        """Text that was held back."""
        text = self._writer.end()
        return Delta(text, ()) if text else None

    def finish(self, reason: FinishReason) -> Finish:
        asked = dict.fromkeys(c for turn in self.timeline for c in turn.steering.conditions)
        met = tuple(
            Met(one, self.met[one] - self.length if one in self.met else None) for one in asked
        )
        told = self.length, self.count, self.edited, tuple(self.timeline), met, tuple(self.alarms)
        how, seen, said = tuple(self.arithmetic), self.notes.observed, self.notes.prompt
        cached = self.cached
        return Finish(reason, *told, cached, arithmetic=how, observed=seen, prompt=said)
