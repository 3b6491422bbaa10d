"""Prompts that begin like something already computed: their keys and values are copied.

A prompt takes what is known of its beginning when it gets its row, and always computes its last
token itself, for the logits. What is kept are positions whose step has given finite logits: the
prompt's once its first token is sampled, the reply's when it ends or is cancelled; a reply that
fails keeps nothing more. The copying is done later, in the order it was asked for, as is all else
that is done to rows.

Eager and compiled layers round differently: what is kept is of one arithmetic, and forgotten when
the model goes over to another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .pool import Pool
from .prefix import BLOCK, NEUTRAL, Mark, PrefixIndex, marked
from .reply import Reply
from .shadow import Shadow


class Reuse:
    def __init__(
        self,
        pool: Pool,
        later: Callable[[Callable[[], None]], None],
        arithmetic: Callable[[], str],
    ) -> None:
        self._pool = pool
        self._later = later
        self._arithmetic = arithmetic
        self._of = arithmetic()
        self._index = PrefixIndex(pool.blocks)

    @property
    def positions(self) -> int:
        """How many are kept now."""
        return len(self._index) * BLOCK

    def begin(self, reply: Reply) -> None:
        """It has its rows and nothing in them: take what is known, in all of them as much."""
        mark = reply.opening.marks[0]
        request = reply.request
        if mark is None or request.observe or request.scored or not self._pool.blocks:
            return  # what is not computed is not observed, and not scored
        self._forget_another_arithmetic()
        prompt = request.prompt
        found = [self._index.find(prompt, _wanted(ticket, mark)) for ticket in reply.rows]
        blocks = min(map(len, found))
        if blocks:
            reply.arithmetic[self._of] = None
            reply.known_to(min(blocks * BLOCK, reply.length - 1))
            for ticket, ids in zip(reply.rows, found, strict=True):
                self._later(partial(self._pool.load, ids[:blocks], ticket.row))

    def keep(self, reply: Reply) -> None:
        """Keep what lies in its rows. The last step over them must have given finite logits."""
        if not self._pool.blocks:
            return
        self._forget_another_arithmetic()
        if tuple(reply.arithmetic) != (self._of,):
            return
        trail = reply.trail
        for ticket in reply.rows:
            shadow = isinstance(ticket, Shadow)
            marks = [NEUTRAL] * len(trail.marks) if shadow else trail.marks
            start, ids = self._index.add(trail.tokens, marks)
            if ids:
                self._later(partial(self._pool.save, ticket.row, start, ids))

    def _forget_another_arithmetic(self) -> None:
        now = self._arithmetic()
        if now != self._of:
            self._of, self._index = now, PrefixIndex(self._pool.blocks)


def _wanted(ticket: Reply | Shadow, mark: bytes) -> list[Mark]:
    """The marks of the prompt as this row would compute it."""
    if isinstance(ticket, Shadow):
        return [NEUTRAL] * ticket.length
    return marked(ticket.request.steerable, mark)
