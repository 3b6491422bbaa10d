"""Text from files and data sets, as a stream of documents and then of rows of tokens.

A document is a text or a chat. Nothing is read before it is asked for, and memory does not grow
with the corpus (.json and .md files are the exceptions: they are read whole; .jsonl and .txt are
not).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from ..errors import DictionaryError
from .chats import Encoding, Renderer
from .sources import LONGEST, Document, by_turns, stream
from .subject import Windows

T = TypeVar("T")

_BREAKS = ("\n\n", "\n", " ")
_LEAD = 4  # of a chat's row, no more than one part in so many are template tokens that lead it


def documents(
    sources: Sequence[str], *, field: str = "text", seed: int = 0, without: Path | None = None
) -> Iterator[Document]:
    """Every document of the sources, one of each in turn; so do the files of a folder.

    sources: .txt, .md, .jsonl or .json files (.gz too), folders of these, or
    `hf:org/name[:config][:split]`. field: where a JSON record or a data set keeps its text; records
    with `messages`, `turns` or `conversations` are chats. seed: draws the order of a folder's
    files, of which a few dozen are open at a time. without: see `files.files`.
    Raises DictionaryError for a source that is not there, cannot be read, or holds nothing.
    """
    if not sources:
        raise DictionaryError("no text was named: give files, folders or hf:org/name.")
    streams = [stream(source, field, seed=seed, without=without) for source in sources]
    return by_turns(streams, len(streams))


def pieces(documents: Iterable[Document]) -> Iterator[Document]:
    """The same text in documents of no more than `LONGEST` characters; chats stay whole.

    Shuffling holds thousands of documents, and a book is as long as hundreds of pages.
    """
    for document in documents:
        if isinstance(document, str):
            yield from _pieces(document)
        else:
            yield document


def _pieces(text: str) -> Iterator[str]:
    """Cut at a blank line, else the end of a line, else a space, in the second half of a piece."""
    at = 0
    while len(text) - at > LONGEST:
        marks = ((mark, text.rfind(mark, at + LONGEST // 2, at + LONGEST)) for mark in _BREAKS)
        end = next((found + len(mark) for mark, found in marks if found >= 0), at + LONGEST)
        yield text[at:end]
        at = end
    yield text[at:]


def shuffled(items: Iterable[T], *, seed: int, buffer: int = 4096) -> Iterator[T]:
    """The same items in another order: each changes places within the next `buffer` or so."""
    draw = random.Random(seed)
    held: list[T] = []
    for item in items:
        if len(held) < buffer:
            held.append(item)
            continue
        at = draw.randrange(buffer)
        held[at], item = item, held[at]
        yield item
    draw.shuffle(held)
    yield from held


class Row(NamedTuple):
    """A document's tokens, and which of them people wrote."""

    ids: list[int]
    content: list[bool]


def encoded(
    documents: Iterable[Document], tokenizer: Any, *, context: int, rest: bool = False
) -> Iterator[Row]:
    """Rows of at most `context` tokens, special tokens in front as the tokenizer adds them.

    rest: a longer text or chat goes on in further rows; otherwise what is beyond `context` is left
    out. Chats are rendered by the chat template; without one their contents are a text, a line
    each.
    """
    renderer = Renderer(tokenizer)
    for document in documents:
        if renderer.templated and not isinstance(document, str):
            if (chat := renderer.chat(document)) is not None:
                yield from _chat(renderer, chat, context, rest)
            continue
        plain = document if isinstance(document, str) else "\n".join(m["content"] for m in document)
        yield from _cut(renderer.text(plain), context, rest)
    renderer.tell()


def _chat(renderer: Renderer, chat: Encoding, context: int, rest: bool) -> Iterator[Row]:
    rows = (
        list(_turns(chat, context)) if rest else [Row(chat.ids[:context], chat.content[:context])]
    )
    read = [row for row in rows if True in row.content]
    if not read:
        renderer.leave_out(f"none of its first {context} tokens is one that people wrote")
    yield from read


def _turns(whole: Encoding, context: int) -> Iterator[Row]:
    """A chat in rows: each begins with the chat's first token, often BOS, and with the template's
    words before the turn that it is in, so that a reply that goes on is still the assistant's.
    """
    ids, content = whole
    most = max(1, context // _LEAD)
    run = [0]  # where the stretch begins that a token is in, of people's words or of others
    for at in range(1, len(ids)):
        run.append(run[-1] if content[at] == content[at - 1] else at)
    start = content.index(True) if True in content else len(ids)
    while start < len(ids):
        turn = run[start] if content[start] else start
        before = run[turn - 1] if content[start] and turn else run[turn]
        head = [*range(max(before, turn - most), turn)]
        if not content[0] and 0 not in head:
            head = [0, *range(max(before, turn - most + 1), turn)]
        taken = [*head, *range(start, min(len(ids), start + context - len(head)))]
        yield Row([ids[i] for i in taken], [content[i] for i in taken])
        start = taken[-1] + 1


def _cut(whole: Encoding, context: int, rest: bool) -> Iterator[Row]:
    """Special tokens that lead the text lead every row of it; a row has something to read."""
    lead = whole.content.index(True) if True in whole.content else len(whole.ids)
    stop = len(whole.ids) if rest else min(len(whole.ids), context)
    for start in range(lead, stop, max(1, context - lead)):
        end = min(start + context - lead, stop)
        content = whole.content[:lead] + whole.content[start:end]
        if True in content:
            yield Row(whole.ids[:lead] + whole.ids[start:end], content)


def windows(
    documents: Iterable[Document],
    tokenizer: Any,
    *,
    context: int,
    rows: int,
    rest: bool = False,
    ahead: int = 1,
) -> Iterator[Windows]:
    """Batches of `rows` rows (the last may have fewer); see `encoded` for what a row is.

    ahead: rows of that many batches are sorted by length first, so that less is padding; with 1
    they stay in the order of the documents.
    """
    if context < 2 or rows < 1:
        raise DictionaryError(
            f"windows of {rows} rows x {context} tokens: they need 1 x 2 or more."
        )
    pad = _padding(tokenizer)
    made = encoded(documents, tokenizer, context=context, rest=rest)
    while many := list(itertools.islice(made, rows * ahead)):
        if ahead > 1:
            many.sort(key=lambda row: len(row.ids))
        for start in range(0, len(many), rows):
            yield padded(many[start : start + rows], pad)


def padded(rows: Sequence[Row], pad: int) -> Windows:
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    attended = torch.zeros(len(rows), longest, dtype=torch.bool)
    content = torch.zeros(len(rows), longest, dtype=torch.bool)
    for at, row in enumerate(rows):
        ids[at, : len(row.ids)] = torch.tensor(row.ids)
        content[at, : len(row.ids)] = torch.tensor(row.content)
        attended[at, : len(row.ids)] = True
    return Windows(ids, attended, content)


def _padding(tokenizer: Any) -> int:
    """Any id will do where nothing attends."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(i) for i in known if i is not None)
