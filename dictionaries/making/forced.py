"""Replies put into a model's mouth: how likely it finds them, and the windows to run them in."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..errors import DictionaryError
from .chats import Encoding, Renderer
from .fluency import GARBLED, Nats
from .subject import Message, Subject, Windows
from .text import Row, padded

Messages = Sequence[Message]

LOGIT_BYTES = 256 * 2**20  # of one forward pass
_ROWS = 64  # more make no pass faster


class Spoken(NamedTuple):
    """A conversation with its reply. reply: true on the reply's tokens."""

    row: Row
    reply: list[bool]

    @property
    def ids(self) -> list[int]:
        """Those of the reply."""
        return [i for i, own in zip(self.row.ids, self.reply, strict=True) if own]


class Forced(NamedTuple):
    """A batch. predicts: bool [rows, tokens], the places whose next token is the reply's."""

    windows: Windows
    predicts: Tensor


class Teacher:
    """Renders conversations with their replies as the subject's model sees them."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._renderer = Renderer(subject.tokenizer)
        self._before: dict[tuple[tuple[str, str], ...], int] = {}
        tokenizer = subject.tokenizer
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self._pad = next(int(i) for i in known if i is not None)
        self._vocab = len(tokenizer)

    def accepts(self, messages: Messages) -> bool:
        """Whether the model's chat template takes them: some know no system prompt."""
        return not self._renderer.templated or self._renderer.chat(messages) is not None

    def spoken(self, messages: Messages, reply: str) -> Spoken:
        """The reply is what people wrote beyond the messages' own content.

        Raises DictionaryError where the chat template refuses the messages.
        """
        key = tuple((m["role"], m["content"]) for m in messages)
        if key not in self._before:
            self._before[key] = sum(self._encoded(messages, "").content)
        whole = self._encoded(messages, reply)
        seen, own = 0, []
        for content in whole.content:
            own.append(content and seen >= self._before[key])
            seen += content
        return Spoken(Row(whole.ids, whole.content), own)

    def _encoded(self, messages: Messages, reply: str) -> Encoding:
        if not self._renderer.templated:
            before = "\n".join(m["content"] for m in messages)
            return self._renderer.text(f"{before} {reply}" if reply else before)
        said: list[Message] = [*messages]
        if reply:
            said.append({"role": "assistant", "content": reply})
        chat = self._renderer.chat(said)
        if chat is None:
            roles = ", ".join(m["role"] for m in said)
            raise DictionaryError(
                f"the model's chat template refuses messages of the roles {roles}: measuring "
                "needs a message of a user and the assistant's reply."
            )
        return chat

    def batch(self, rows: Sequence[Spoken]) -> Forced:
        windows = padded([row.row for row in rows], self._pad)
        predicts = torch.zeros_like(windows.content)
        for at, row in enumerate(rows):
            predicts[at, : len(row.reply) - 1] = torch.tensor(row.reply[1:])
        return Forced(windows, predicts)

    def batches(self, rows: Sequence[Spoken]) -> Iterator[tuple[list[int], Forced]]:
        """(which rows, they), rows of like length together, as many as memory is meant for."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].reply), reverse=True)
        while order:
            n = self.at_once(len(rows[order[0]].reply))
            yield order[:n], self.batch([rows[i] for i in order[:n]])
            order = order[n:]

    def at_once(self, tokens: int) -> int:
        """How many rows of so many tokens one forward pass takes."""
        return max(1, min(_ROWS, LOGIT_BYTES // (4 * max(1, tokens) * self._vocab)))

    def nats(self, rows: Sequence[Spoken]) -> list[Nats]:
        """How much each reply surprises the unsteered model, in order."""
        found = [Nats(0.0, 0)] * len(rows)
        for which, forced in self.batches(rows):
            logits = self._subject.logits(forced.windows)
            predicts = forced.predicts.to(logits.device)
            targets = forced.windows.ids.to(logits.device).roll(-1, 1)[predicts]
            each = torch.zeros(predicts.shape, device=logits.device)
            each[predicts] = cross_entropy(logits[predicts], targets, reduction="none")
            totals, counts = each.sum(-1).tolist(), predicts.sum(-1).tolist()
            for i, total, count in zip(which, totals, counts, strict=True):
                found[i] = Nats(total, count)
        return found


def garbled(row: Spoken, seed: int) -> Spoken:
    """The same with a share of the reply's tokens (`fluency.GARBLED`) in another order."""
    rng, ids = random.Random(seed), row.ids
    places = rng.sample(range(len(ids)), round(GARBLED * len(ids)))
    moved = [ids[i] for i in places]
    rng.shuffle(moved)
    for place, i in zip(places, moved, strict=True):
        ids[place] = i
    dealt = iter(ids)
    mixed = [next(dealt) if own else i for i, own in zip(row.row.ids, row.reply, strict=True)]
    return Spoken(Row(mixed, row.row.content), row.reply)
