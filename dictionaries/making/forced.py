"""Replies put into a model's mouth: how likely it finds them, and the windows to run them in."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..contents import contents
from ..errors import DictionaryError
from .chats import special_ids
from .fluency import GARBLED, Nats
from .subject import Message, Prompt, Subject, Windows
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
    """Puts replies behind conversations, where the subject's model would have said them."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._prompts: dict[tuple[tuple[str, str], ...], Prompt] = {}
        tokenizer = subject.tokenizer
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self._pad = next(int(i) for i in known if i is not None)
        self._vocab, self._special = len(tokenizer), special_ids(tokenizer)

    def spoken(self, messages: Messages, reply: str) -> Spoken:
        """The tokens that the speaker is asked with, and after them the reply's.

        Raises DictionaryError where the chat template refuses the messages.
        """
        before = self._prompt(messages)
        ids = _tokens(self._subject.tokenizer, messages[-1], reply) if reply else []
        own = [i not in self._special for i in ids]
        row = Row(before.ids + ids, before.content + own)
        return Spoken(row, [False] * len(before.ids) + own)

    def _prompt(self, messages: Messages) -> Prompt:
        key = tuple((m["role"], m["content"]) for m in messages)
        if key not in self._prompts:
            made = self._subject.prompt(messages)
            if made is None:
                roles = ", ".join(m["role"] for m in messages)
                raise DictionaryError(
                    f"the model's chat template refuses messages of the roles {roles}: measuring "
                    "needs one that takes a message of a user."
                )
            self._prompts[key] = made
        return self._prompts[key]

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


def _tokens(tokenizer: Any, asked: Message, reply: str) -> list[int]:
    """The reply's, as they are behind the last message: many tokenizers begin a word otherwise
    after a space. Of a reply that the template changes, as it takes thoughts away, they are those
    of the reply alone.
    """
    whole, own = _finished(tokenizer, asked, reply)
    made = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    pairs = zip(made["input_ids"], made["offset_mapping"], strict=True)
    return [token for token, (start, stop) in pairs if own.start < stop and start < own.stop]


def _finished(tokenizer: Any, asked: Message, reply: str) -> tuple[str, range]:
    """A text that ends in the reply, or holds it, and the characters that are the reply. Of what
    came before, which templates may refuse (a system message), nothing is in it but `asked`.
    """

    def render(said: Sequence[Any]) -> str:
        return str(tokenizer.apply_chat_template(list(said), tokenize=False))

    alone = reply, range(len(reply))
    if not tokenizer.chat_template:
        whole = f"{asked['content']} {reply}"
        return whole, range(len(whole) - len(reply), len(whole))
    said: list[Message] = [asked, {"role": "assistant", "content": reply}]
    try:
        whole, spans = contents(render, said)
    except Exception:  # a template raises what its author liked
        return alone
    own = spans[-1][-1] if len(spans) == len(said) and spans[-1] else range(0)
    return (whole, own) if whole[own.start : own.stop].strip() == reply.strip() else alone


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
