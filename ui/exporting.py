"""The last question as a request that can be sent from elsewhere: `share.py` writes it down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import chat, columns, fitting, presets, singly, sweep
from . import rack as racks
from .rack import Rack
from .session import Session
from .settings import Settings
from .transcript import Turn


def request(session: Session, rack: Rack, settings: Settings, text: str) -> dict[str, Any]:
    """The last question as it would be asked with this rack: the body of a chat completion, or of
    a comparison (it has `variants`) where it was answered in several ways.

    text: asked where there is no question yet. Where the rack is as it was when the question was
    asked, the seed is the one that was drawn then: the reply is the one that has been seen.
    """
    transcript = session.transcript
    messages = transcript.messages("steered", settings.system)
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or messages[-1]["role"] != "user":
        messages.append({"role": "user", "content": text or presets.examples(session.model)[0]})
    fit, _ = fitting.opening(messages, transcript.dropped)
    last = transcript.turns[-1] if transcript.turns else None
    same = last is not None and last.steering == chat.steering(rack, keep_norm=settings.norm)
    seed = last.seed if last is not None and same else settings.seed
    ways = _ways(last, rack)
    if ways:
        return columns.request(session, fit, ways, settings, seed)
    return chat.request(session, fit, rack, settings, seed)


def _ways(last: Turn | None, rack: Rack) -> Sequence[Rack]:
    """How to steer the variants beside the unsteered one; none where one reply is asked for."""
    if last is None or len(last.replies) < 2 or not racks.edits(rack):
        return ()
    if "half" in last.replies and sweep.able(rack):
        return [way.rack for way in sweep.ways(rack)]
    if "alone 1" in last.replies and singly.able(rack):
        return [way.rack for way in singly.ways(rack)]
    return [rack]
