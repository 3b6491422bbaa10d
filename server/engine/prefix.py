"""What is known of the beginnings of prompts: an index of computed blocks. No torch.

The keys and values of a position are decided by the tokens up to it and by what was edited at each
of them. So a position is a token and a mark, and only what begins with the same tokens and marks is
the same. Marks say what acted, not what was asked for: an edit `where: generated` leaves none on a
prompt, and a reply's tokens that come back in the next turn's prompt match only if the edits there
are those under which they were generated.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .types import FeatureEdit, Steering, Where

BLOCK = 16  # positions that are kept, found and forgotten together

Mark = bytes | None  # None: decided by more than tokens and edits; is like nothing else
NEUTRAL: Mark = b""

Block = tuple[tuple[int, ...], tuple[Mark, ...]]
Key = tuple[int, Block]  # the id of the block before it, and its own content
_ROOT = -1


def marks(steering: Steering, revisions: Mapping[str, str]) -> tuple[Mark, Mark]:
    """How the tokens that may be edited are edited: the prompt's, and the generated ones.

    revisions: by dictionary. Steering with anything beyond edits and norm, or edits with anything
    beyond four numbers and `where`, has no mark: what is not known here is not shared.
    """
    plain = steering == Steering(steering.edits, steering.keep_norm)
    if not (plain and all(map(_plain, steering.edits))):
        return None, None
    return (
        _mark(steering, Where.PROMPT, revisions),
        _mark(steering, Where.GENERATED, revisions),
    )


def _plain(edit: FeatureEdit) -> bool:
    return edit == FeatureEdit(
        edit.dictionary,
        edit.feature,
        edit.op,
        edit.strength,
        edit.edit,
        edit.where,
        vector=edit.vector,
    )


def _mark(steering: Steering, phase: Where, revisions: Mapping[str, str]) -> Mark:
    acting = [
        (e.dictionary, _content(e, revisions), e.feature, *map(float, e.edit))
        for e in steering.edits
        if e.where in (Where.ALL, phase)
    ]
    if not acting:
        return NEUTRAL
    return hashlib.blake2b(repr((steering.keep_norm, acting)).encode(), digest_size=32).digest()


def _content(edit: FeatureEdit, revisions: Mapping[str, str]) -> str:
    """Of two vectors the name may be the same: what they hold decides."""
    return revisions[edit.dictionary] if edit.vector is None else edit.vector.sha256


class Trail:
    """The positions of a row as they were computed."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.marks: list[Mark] = []

    def add(self, tokens: Sequence[int], steerable: Iterable[bool], mark: Mark) -> None:
        """mark: of those that are steerable."""
        self.tokens += tokens
        self.marks += marked(steerable, mark)


def marked(steerable: Iterable[bool], mark: Mark) -> list[Mark]:
    return [mark if flag else NEUTRAL for flag in steerable]


class PrefixIndex:
    """Blocks by their content and by all that came before, in the order of their last use.

    A block is younger than those that follow on it, so the oldest of all is followed by none: it
    can be forgotten without leaving others behind that nobody finds.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._ids: OrderedDict[Key, int] = OrderedDict()
        self._free = list(range(blocks))

    def __len__(self) -> int:
        return len(self._ids)

    def find(self, tokens: Sequence[int], marks: Sequence[Mark]) -> list[int]:
        """The ids of the blocks that this begins with, as many as are known."""
        known = self._known(tokens, marks)
        self._use(known)
        return [self._ids[key] for key in known]

    def add(self, tokens: Sequence[int], marks: Sequence[Mark]) -> tuple[int, list[int]]:
        """Take in what is not known yet: the position where that begins, and the ids of its blocks.

        Whatever had these ids is forgotten. A block with a mark of None ends it, and what does not
        fit is left out.
        """
        keys = self._known(tokens, marks)
        self._use(keys)
        own = [self._ids[key] for key in keys]
        known = len(keys)
        for block in _blocks(tokens[known * BLOCK :], marks[known * BLOCK :]):
            new = None if None in block[1] else self._room(own)
            if new is None:
                break
            keys.append((own[-1] if own else _ROOT, block))
            own.append(new)
            self._ids[keys[-1]] = new
        self._use(keys)
        return known * BLOCK, own[known:]

    def _known(self, tokens: Sequence[int], marks: Sequence[Mark]) -> list[Key]:
        keys: list[Key] = []
        before = _ROOT
        for block in _blocks(tokens, marks):
            key = before, block
            if key not in self._ids:
                break
            keys.append(key)
            before = self._ids[key]
        return keys

    def _use(self, keys: Sequence[Key]) -> None:
        for key in reversed(keys):
            self._ids.move_to_end(key)

    def _room(self, own: Sequence[int]) -> int | None:
        """An id for one more block, None if all are `own`."""
        if self._free:
            return self._free.pop()
        oldest = next(iter(self._ids))
        return None if self._ids[oldest] in own else self._ids.pop(oldest)


def _blocks(tokens: Sequence[int], marks: Sequence[Mark]) -> Iterator[Block]:
    """The whole ones."""
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        part = slice(start, start + BLOCK)
        yield tuple(tokens[part]), tuple(marks[part])
