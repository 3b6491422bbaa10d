"""One source of text, a file, a folder or a data set of the Hub, as a stream of documents."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import logging
import random
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar

from ..errors import DictionaryError
from .files import HUB, files, kind
from .subject import Message

log = logging.getLogger("steerdeck.making")

Document = str | tuple[Message, ...]
T = TypeVar("T")

LONGEST = 2**14  # characters of a document; what is longer is cut here (.txt) or in `text.pieces`
_OPEN = 32  # files of a folder that are read by turns
_CHATS = ("messages", "turns", "conversations", "conversation")
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
_LONE = re.compile("[\ud800-\udfff]")  # half of a pair: JSON can hold it, no tokenizer takes it
_SPLITS = ("train", "validation", "valid", "val", "dev", "test")


def stream(
    source: str, field: str, *, seed: int = 0, without: Path | None = None
) -> Iterator[Document]:
    """The documents of one source; see `text.documents`. Raises DictionaryError if it has none."""
    found = 0
    for document in _documents(source, field, seed, without):
        found += 1
        yield document
    if not found:
        raise DictionaryError(f"{source} holds no text.")


def _documents(source: str, field: str, seed: int, without: Path | None) -> Iterator[Document]:
    if source.startswith(HUB):
        return _of_hub(source, field)
    found = files(source, without)
    if len(found) == 1:
        return _of_file(found[0], field)
    random.Random(seed).shuffle(found)
    return _of_folder(source, found, field)


def _of_folder(source: str, found: list[Path], field: str) -> Iterator[Document]:
    """Files take turns, so that whoever stops early has not read the front of the alphabet."""
    begun = itertools.count()

    def opened(path: Path) -> Iterator[Document]:
        next(begun)
        yield from _of_file(path, field)

    try:
        yield from by_turns(map(opened, found), _OPEN)
    finally:
        if (read := next(begun)) < len(found):
            log.info("%s: text of %d of its %d files was read", source, read, len(found))


def by_turns(streams: Iterable[Iterator[T]], most: int) -> Iterator[T]:
    """One of each in turn, `most` of them at a time: one that ends makes room for the next."""
    waiting = iter(streams)
    turns = list(itertools.islice(waiting, most))
    while turns:
        for one in list(turns):
            try:
                yield next(one)
            except StopIteration:
                turns.remove(one)
                turns.extend(itertools.islice(waiting, 1))


def _of_file(path: Path, field: str) -> Iterator[Document]:
    try:
        with _opened(path) as file:
            match kind(path):
                case ".txt":
                    yield from _paragraphs(file)
                case ".md":
                    yield from _texts(file.read())
                case ".jsonl":
                    yield from _records(_lines(file, path), str(path), field)
                case _:
                    yield from _records(_values(file, path), str(path), field)
    except (OSError, UnicodeDecodeError, EOFError, zlib.error, RecursionError) as error:
        raise DictionaryError(f"{path} cannot be read: {error}.") from error


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _texts(text: str) -> Iterator[str]:
    """The text, unless there is nothing in it."""
    if text.strip():
        yield _whole(text.strip())


def _whole(text: str) -> str:
    return _LONE.sub("\ufffd", text)


def _paragraphs(file: TextIO) -> Iterator[str]:
    """Stretches between blank lines, and no longer than some pages: a text may have none."""
    held = ""
    while line := file.readline(LONGEST):
        if not line.strip() or len(held) + len(line) > LONGEST:
            yield from _texts(held)
            held = ""
        held += line
    yield from _texts(held)


def _lines(file: TextIO, path: Path) -> Iterator[Any]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DictionaryError(f"{path}, line {number} is not JSON: {error}.") from error


def _values(file: TextIO, path: Path) -> Iterator[Any]:
    """What a list holds, or the one value there is. Several values are JSON lines by another name.

    Folders hold other JSON too: it is told by its records.
    """
    text = file.read()
    try:
        value = json.loads(text)
    except ValueError:
        yield from _lines(io.StringIO(text), path)
        return
    yield from value if isinstance(value, list) else [value]


def _records(values: Iterable[Any], where: str, field: str) -> Iterator[Document]:
    for number, value in enumerate(values):
        yield from record(value, f"{where}, record {number}", field)


def record(value: Any, where: str, field: str) -> Iterator[Document]:
    """The document in a JSON value; none if it is empty or null."""
    if value is None:
        return
    if isinstance(value, str):
        yield from _texts(value)
        return
    if isinstance(value, dict):
        if isinstance(value.get(field), str):
            yield from _texts(value[field])
            return
        chats = [value[name] for name in (field, *_CHATS) if isinstance(value.get(name), list)]
        if chats:
            messages = tuple(_message(turn, where) for turn in chats[0])
            if any(m["content"].strip() for m in messages):
                yield messages
            return
        named = [value[name] for name in (field, *_CHATS) if name in value]
        if named and all(one is None for one in named):
            return
    has = f"has {', '.join(map(str, value))}" if isinstance(value, dict) else "is no object"
    raise DictionaryError(
        f"{where} {has}: its text is looked for in {field!r} (--field names another) and chats in "
        f"{', '.join(_CHATS)}."
    )


def _message(turn: Any, where: str) -> Message:
    """OpenAI's role and content, ShareGPT's from and value, or a pair of both."""
    role, content = None, turn
    if isinstance(turn, dict):
        role = turn.get("role", turn.get("from"))
        content = turn.get("content", turn.get("value", turn))
    elif isinstance(turn, list | tuple) and len(turn) == 2:
        role, content = turn
    content = "" if content is None else content  # of a turn that only calls a tool
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        # Parts, of which only text is text: as the service reads them, each begins a line.
        texts = (part.get("text") for part in content)
        content = "\n".join(text for text in texts if isinstance(text, str))
    if not isinstance(role, str) or not isinstance(content, str):
        raise DictionaryError(
            f"{where} holds a turn that is no message: {str(turn)[:80]}. A message has a role and "
            "a content, both of them texts."
        )
    return {"role": _ROLES.get(role, role), "content": _whole(content)}


def hub_name(source: str) -> tuple[str, str | None, str]:
    """hf:org/name[:config][:split] -> (name, config, split); a lone third part that is the usual
    name of a split is one.
    """
    name, *more = source.removeprefix(HUB).split(":")
    if not name or len(more) > 2:
        raise DictionaryError(f"{source!r} is not of the form hf:org/name[:config][:split].")
    if len(more) == 2:
        return name, more[0] or None, more[1]
    if more and more[0] in _SPLITS:
        return name, None, more[0]
    return name, more[0] if more else None, "train"


def _of_hub(source: str, field: str) -> Iterator[Document]:
    name, config, split = hub_name(source)
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DictionaryError(
            f"{source} needs the package {error.name}: pip install '.[making]' in a clone."
        ) from error
    try:
        rows = datasets.load_dataset(name, config, split=split, streaming=True)
        yield from _records(rows, source, field)
    except DictionaryError:
        raise
    except Exception as error:  # the library's errors share no base
        raise DictionaryError(f"{source} cannot be read: {error}") from error
