"""The last question asked again: its turn taken out of the conversation, and put back."""

from __future__ import annotations

from .chat import steering
from .rack import Rack
from .session import Session
from .settings import Settings
from .transcript import Taken


def take_back(session: Session, rack: Rack, settings: Settings) -> tuple[Taken, int | None]:
    """Take the last turn, which there must be, and the seed to answer its question from.

    Under another steering the seed stays, so that only the steering differs; else another is drawn.
    """
    taken = session.transcript.take_back()
    same = taken.turn.steering == steering(rack, keep_norm=settings.norm)
    return taken, None if same else taken.turn.seed


def put_back(session: Session, taken: Taken) -> bool:
    """Restore what was taken where new replies failed or were stopped before they came to a word.
    Whether that was so.
    """
    turns = session.transcript.turns
    replies = list(turns[-1].replies.values()) if turns else []
    if not replies or any(reply.text for reply in replies):
        return False
    cut = session.trouble is not None or any(reply.reason == "cancelled" for reply in replies)
    if cut:
        session.transcript.put_back(taken)
    return cut
