"""The conversation: what was said, and the log of it that the thread widget draws.

The log is a string of JSON lines that only grows while a reply streams, because Gradio sends the
growth of a string and nothing else; a list would be sent and compared whole at every frame.
A line is an object with `k`:

    home   the first screen: model, presets, example prompts; begun: when the conversation began,
           so that the last frame of an older one, if it comes late, is not drawn; from: the
           number of the line that follows, where those before it are on the page already
    user   x (text), rack (what acted when it was asked: rack.acting)
    reply  r (number), lane, seed, pair (are other replies beside it), chips, features (the legend),
           title (where the lane tells none); a chip is [colour, name, setting, reference]
    +      r, x (text), t (strip.Packed), n (tokens when there is no trace)
    mark   r, at (token from which on), x (what changed), s (the same in brief), features
    end    r, reason, tokens, seconds, receipt | error and its code, guard (what it did),
           dropped (turns that no longer fit)
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from .rack import Entry, Rack, acting

# steered, plain; of a sweep half, more, double; of each feature alone "alone 1" and so on.
Lane = str


@dataclass
class Reply:
    """One reply as far as it has come. reason: why it ended; empty until then."""

    number: int
    text: str = ""
    tokens: int = 0
    reason: str = ""


@dataclass
class Turn:
    """What was asked, the replies, and what they began with: seed and `steering` on the wire.

    start: the line of the log at which the turn begins.
    """

    user: str
    replies: dict[Lane, Reply] = field(default_factory=dict)
    start: int = 0
    seed: int = 0
    steering: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taken:
    """A turn that was taken out of a conversation, with its lines of the log."""

    turn: Turn
    lines: list[str]


@dataclass
class Transcript:
    """All turns of one tab, and their log.

    dropped: how many of the oldest turns the model's context has had no room for.
    """

    turns: list[Turn] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    dropped: int = 0
    home: dict[str, Any] = field(default_factory=dict)
    count: int = 0
    begun: float = field(default_factory=time.time)

    def log(self, start: int = 0) -> str:
        """The lines from number `start` on, behind the first screen's."""
        home = _line(k="home", begun=self.begun, **{"from": start}, **self.home)
        return "\n".join((home, *self.lines[start:], ""))

    def latest(self) -> str:
        """The log from the last turn on: a page that grows with the conversation has the others."""
        return self.log(self.turns[-1].start if self.turns else 0)

    def ask(self, text: str, rack: Rack = ()) -> Turn:
        turn = Turn(text, start=len(self.lines))
        self.turns.append(turn)
        self._add(k="user", x=text, rack=acting(rack))
        return turn

    def reply(self, turn: Turn, lane: Lane, rack: Rack, *, pair: bool, title: str = "") -> Reply:
        self.count += 1
        reply = turn.replies[lane] = Reply(self.count)
        on = tuple(held for held in rack if held.on)
        chips = [
            [held.colour, name, held.said(), held.feature]
            for held, name in zip(on, named(on), strict=True)
        ]
        told = {"r": reply.number, "lane": lane, "seed": turn.seed, "pair": pair}
        told |= {"title": title} if title else {}
        self._add(k="reply", **told, chips=chips, features=legend(on))
        return reply

    def grow(self, reply: Reply, text: str, packed: list[Any], tokens: int) -> None:
        reply.text += text
        reply.tokens += tokens
        if text or packed:
            more = {"t": packed} if packed else {"n": tokens}
            self._of(reply, k="+", x=text, **more)

    def mark(self, reply: Reply, at: int, told: str, brief: str, rack: Rack) -> None:
        """From token `at` on another rack steers: `told` says what changed, `brief` to what."""
        on = tuple(held for held in rack if held.on)
        self._of(reply, k="mark", at=at, x=told, s=brief, features=legend(on))

    def end(self, reply: Reply, reason: str, seconds: float, **more: Any) -> None:
        """`more`: receipt (the service's, as text), error, its code, guard (sentences), dropped
        (turns).
        """
        reply.reason = reason
        reply_end = {"reason": reason, "tokens": reply.tokens, "seconds": round(seconds, 3)}
        self._of(reply, k="end", **reply_end, **more)

    def messages(self, lane: Lane, system: str) -> list[dict[str, str]]:
        """The conversation as one lane saw it: its own replies, the other lane's where it has none.

        A turn whose reply is empty (it failed at once) is left out: the roles must alternate.
        """
        told = [{"role": "system", "content": system}] if system.strip() else []
        for turn in self.turns:
            own = turn.replies.get(lane) or next(iter(turn.replies.values()), None)
            last = turn is self.turns[-1]
            if last and not (own and own.text):
                told.append({"role": "user", "content": turn.user})
            elif own and own.text:
                told.append({"role": "user", "content": turn.user})
                told.append({"role": "assistant", "content": own.text})
        return told

    def take_back(self) -> Taken:
        """Remove the last turn."""
        turn = self.turns.pop()
        taken = Taken(turn, self.lines[turn.start :])
        del self.lines[turn.start :]
        return taken

    def shorten(self) -> None:
        """Remove the last turn, if there is one, and begin anew with the others: a page would take
        a log of fewer lines for one that comes late.
        """
        if self.turns:
            self.take_back()
        self.begun = time.time()

    def put_back(self, taken: Taken) -> None:
        """Replace the last turn by the one that was taken from its place."""
        self.take_back()
        self.turns.append(taken.turn)
        self.lines += taken.lines

    def clear(self) -> None:
        self.turns.clear()
        self.lines.clear()
        self.dropped = 0
        self.begun = time.time()

    def _of(self, reply: Reply, *, k: str, **line: Any) -> None:
        """A line of a reply of the last turn; none of one that was cleared or taken back before its
        end, whose line would be of no turn.
        """
        if any(reply is one for turn in self.turns[-1:] for one in turn.replies.values()):
            self._add(k=k, r=reply.number, **line)

    def _add(self, **line: Any) -> None:
        self.lines.append(_line(**line))


def legend(rack: Rack) -> list[list[Any]]:
    """[colour, name, maximum] of each feature: what the strip needs to name and scale it."""
    names = named(rack)
    return [[held.colour, name, held.maximum] for held, name in zip(rack, names, strict=True)]


def named(rack: Rack) -> list[str]:
    """Each feature's label, with its reference where two dictionaries gave the same one."""
    labels = [held.label for held in rack]

    def name(held: Entry) -> str:
        twice = held.label and labels.count(held.label) > 1
        return f"{held.label} ({held.feature})" if twice else held.label or held.feature

    return [name(held) for held in rack]


def _line(**line: Any) -> str:
    # ASCII only: half a surrogate pair in a hostile token must not stop the page's own encoding.
    return json.dumps(line, separators=(",", ":"))
