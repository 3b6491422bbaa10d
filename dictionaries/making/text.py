"""Text from files and data sets, as a stream of documents and then of rows of tokens.

A document is a text or a chat. Nothing is read before it is asked for, and memory does not grow
with the corpus (.json and .md files are the exceptions: they are read whole; .jsonl and .txt are
not).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch

from ..errors import DictionaryError
from .chats import Encoding, Renderer
from .sources import Document, stream
from .subject import Windows

T = TypeVar("T")


def documents(sources: Sequence[str], *, field: str = "text") -> Iterator[Document]:
    """Every document of the sources, one of each in turn.

    sources: .txt, .md, .jsonl or .json files (.gz too), folders of these, or
    `hf:org/name[:config][:split]`. field: where a JSON record or a data set keeps its text; records
    with `messages`, `turns` or `conversations` are chats.
    Raises DictionaryError for a source that is not there, cannot be read, or holds nothing.
    """
    if not sources:
        raise DictionaryError("no text was named: give files, folders or hf:org/name.")
    streams = [stream(source, field) for source in sources]
    while streams:
        for one in list(streams):
            try:
                yield next(one)
            except StopIteration:
                streams.remove(one)


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

    rest: a longer text goes on in further rows; otherwise, and in chats always, what is beyond
    `context` is left out. Chats are rendered by the chat template; without one their contents are
    a text, a line each.
    """
    renderer = Renderer(tokenizer)
    for document in documents:
        if renderer.templated and not isinstance(document, str):
            chat = renderer.chat(document)
            if chat is not None and True in chat.content[:context]:
                yield Row(chat.ids[:context], chat.content[:context])
            continue
        plain = document if isinstance(document, str) else "\n".join(m["content"] for m in document)
        yield from _cut(renderer.text(plain), context, rest)


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
