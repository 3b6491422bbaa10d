"""Which replies of one request share a prompt that is computed once.

Keys, values and logits of a prompt are taken over bit by bit, so a reply must not be able to tell:
the tokens are the same, and what is edited on them. What acts on generated tokens only may differ.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from .reply import Reply
from .types import Where


def link(replies: Iterable[Reply]) -> None:
    """Make each reply take over the prompt of the first that computes it alike."""
    first: dict[Hashable, Reply] = {}
    for reply in replies:
        key = _prompt(reply)
        if key is None:
            continue
        source = first.setdefault(key, reply)
        if source is not reply:
            reply.source, source.shared = source, True


def _prompt(reply: Reply) -> Hashable | None:
    """All that decides how the prompt is computed; None if the reply must do it for itself.

    What an edit sees at the prompt's last token is a reading, and kept for no other reply; so are
    which conditions held, and what was observed or scored.
    """
    request = reply.request
    prepared = [turn.prepared for turn in reply.turns if turn.at == 0][-1]
    if request.trace or request.observe or request.scored or prepared.timed:
        return None
    steering = prepared.steering
    edits = tuple(edit for edit in steering.edits if edit.where is not Where.GENERATED)
    if not edits:
        return request.prompt, steering.keep_norm and bool(steering.edits)
    return request.prompt, request.steerable, edits, steering.keep_norm, request.shadowed
