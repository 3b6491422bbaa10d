"""Engine events -> OpenAI's completion objects and chunks, with `steering` beside the choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .alarms import alarms
from .echo import Echo, echoed
from .engine.decoding import specials
from .engine.types import Delta, Finish, Token
from .jobs import Job
from .logprobs import Offsets, chat_logprob, text_logprobs
from .receipt import applied, fingerprint, receipt
from .schemas.replies import SteeringTold, Usage
from .trace import traced


@dataclass
class Row:
    """One choice as it grows."""

    texts: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    finish: Finish | None = None

    @property
    def end(self) -> Finish:
        assert self.finish is not None  # our own order: what tells of it comes after the finish
        return self.finish


class Writer:
    """Writes one job's reply, whole or in chunks. Subclasses say what a choice looks like."""

    object = ""
    chunk_object = ""

    def __init__(self, job: Job) -> None:
        self.job, self.ask = job, job.ask
        self.rows = [Row() for _ in self.ask.requests]
        self.logprobs = self.ask.requests[0].sampling.logprobs is not None
        self.trace = self.ask.trace
        self._fingerprint = fingerprint(job.deck)

    def choice(self, row: int, text: str, tokens: Sequence[Token], reason: str) -> dict[str, Any]:
        raise NotImplementedError

    def delta_choice(
        self, row: int, text: str | None, tokens: Sequence[Token], reason: str | None
    ) -> dict[str, Any]:
        """text None: the reply's end, or (first chunk) its beginning."""
        raise NotImplementedError

    def opening_choice(self, row: int) -> dict[str, Any]:
        raise NotImplementedError

    def add(self, row: int, event: Delta | Finish) -> None:
        """Take an event in, for `whole` and `usage`."""
        into = self.rows[row]
        if isinstance(event, Finish):
            into.finish = event
        else:
            into.texts.append(event.text)
            into.tokens.extend(event.tokens)

    def whole(self) -> dict[str, Any]:
        """The reply of a request that did not stream, once every row has finished."""
        choices = [
            self.choice(i, "".join(row.texts), row.tokens, str(row.end.reason))
            for i, row in enumerate(self.rows)
        ]
        tokens = [token for row in self.rows for token in row.tokens]
        told: SteeringTold = {
            "id": self.ask.id,
            "applied": self._applied(),
            **traced(tokens, self.trace),
        }
        if raised := [alarm for row in self.rows for alarm in row.end.alarms]:
            told["guard"] = alarms(raised)
        receipts = [self._receipt(i, row) for i, row in enumerate(self.rows)]
        told["receipt"] = receipts[0]
        if len(receipts) > 1:
            told["receipts"] = receipts
        head = self._head(self.object)
        return {**head, "choices": choices, "usage": self._usage(), "steering": told}

    def opening(self) -> Iterator[dict[str, Any]]:
        """The chunks before the first token: the generation's id and what is applied to it."""
        for i in range(len(self.rows)):
            chunk = self._chunk([self.opening_choice(i)])
            if i == 0:
                chunk["steering"] = {"id": self.ask.id, "applied": self._applied()}
            yield chunk

    def chunk(self, row: int, event: Delta | Finish) -> dict[str, Any] | None:
        """The chunk for an event; None for a step that has nothing to tell yet."""
        self.add(row, event)
        if isinstance(event, Finish):
            chunk = self._chunk([self.delta_choice(row, None, (), str(event.reason))])
            chunk["steering"] = {"receipt": self._receipt(row, self.rows[row])}
            return chunk
        if not (event.text or self.logprobs or self.trace or event.alarms):
            return None
        chunk = self._chunk([self.delta_choice(row, event.text, event.tokens, None)])
        told = traced(event.tokens, self.trace)
        if event.alarms:
            told["guard"] = alarms(event.alarms)
        if told:
            chunk["steering"] = told
        return chunk

    def usage_chunk(self) -> dict[str, Any]:
        return {**self._chunk([]), "usage": self._usage()}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head(self.chunk_object), "choices": choices}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.ask.id,
            "object": kind,
            "created": self.ask.created,
            "model": self.ask.model,
            "system_fingerprint": self._fingerprint,
        }

    def _applied(self) -> list[Any]:
        return applied(self.ask.requests[0].steering, self.ask.resolved.labels)

    def _receipt(self, i: int, row: Row) -> dict[str, Any]:
        return receipt(self.job.deck, self.ask.requests[i], row.end)

    def _usage(self) -> Usage:
        """The prompt's tokens, and those of its first reply that were known, count once."""
        n = len(self.rows) // self.ask.prompts
        prompt = sum(len(request.prompt) for request in self.ask.requests[::n])
        cached = sum(row.end.cached_tokens for row in self.rows[::n])
        completion = sum(row.end.completion_tokens for row in self.rows)
        return {
            "prompt_tokens": prompt,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


class ChatWriter(Writer):
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def choice(self, row: int, text: str, tokens: Sequence[Token], reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        logprobs = self._logprobs(tokens)
        return {"index": row, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def delta_choice(
        self, row: int, text: str | None, tokens: Sequence[Token], reason: str | None
    ) -> dict[str, Any]:
        delta = {} if text is None else {"content": text}
        logprobs = self._logprobs(tokens) if tokens else None
        return {"index": row, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def opening_choice(self, row: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"index": row, "delta": delta, "logprobs": None, "finish_reason": None}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        return (
            {"content": [chat_logprob(t) for t in tokens], "refusal": None}
            if self.logprobs
            else None
        )


class TextWriter(Writer):
    object = chunk_object = "text_completion"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        told = self.logprobs or self.ask.echo
        self._silent = frozenset(specials(job.deck.tokenizer)) if told else frozenset()
        self._offsets = [Offsets(self._silent) for _ in self.rows]

    def choice(self, row: int, text: str, tokens: Sequence[Token], reason: str) -> dict[str, Any]:
        said, logprobs = self._said(row), None
        if self.logprobs:
            offsets = Offsets(self._silent, len(said.text)).of(tokens)
            logprobs = text_logprobs([*said.tokens, *tokens], [*said.starts, *offsets])
        text = said.text + text
        return {"index": row, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def delta_choice(
        self, row: int, text: str | None, tokens: Sequence[Token], reason: str | None
    ) -> dict[str, Any]:
        told = None
        if tokens and self.logprobs:
            told = text_logprobs(tokens, self._offsets[row].of(tokens))
        return {"index": row, "text": text or "", "logprobs": told, "finish_reason": reason}

    def opening_choice(self, row: int) -> dict[str, Any]:
        return self.delta_choice(row, "", (), None)

    def _said(self, row: int) -> Echo:
        """The prompt, if it is said before the reply."""
        if not self.ask.echo:
            return Echo()
        sent = self.ask.echo[row * self.ask.prompts // len(self.rows)]
        return echoed(self.job.deck.tokenizer, sent, self.rows[row].end.prompt, self._silent)
