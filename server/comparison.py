"""Comparisons: one conversation answered unsteered and in several steered ways, in one batch.

Row 0 is the unsteered reply, row i the i-th variant; all have the same prompt, sampling and seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from .alarms import alarms
from .completions import ChatWriter
from .deck import Deck
from .engine.types import Delta, Finish
from .engine.vectors import Vector
from .errors import BadRequest, SteerdeckError, named
from .prepare import Ask, prepare_chat
from .receipt import applied
from .schemas.compare import CompareRequest, Variant
from .schemas.replies import SteeringTold
from .steering import Resolved, resolve_change, split_model
from .trace import traced
from .vectors import check_named, read_vectors

UNSTEERED = "unsteered"


def prepare_compare(deck: Deck, body: CompareRequest) -> Ask:
    """Raises what `prepare_chat` does, naming the variant that cannot be made."""
    if split_model(deck, body.model):
        raise BadRequest(
            f"{body.model!r} is a preset: send the model {deck.model!r}, and the preset as a "
            'variant: {"preset": "…"}',
            param="model",
        )
    common = body.steering.vectors if body.steering else {}
    with named("steering"):
        vectors = read_vectors(deck, common, {})
    ask = prepare_chat(deck, _unsteered(body))
    [plain] = ask.requests
    ways = [_resolve(deck, i, variant, vectors) for i, variant in enumerate(body.variants)]
    with named("steering"):
        check_named(common, [way.steering for way in ways])
    requests = [plain]
    requests += [
        replace(plain, id=f"{ask.id}/{i}", steering=way.steering) for i, way in enumerate(ways, 1)
    ]
    _check_room(deck, len(requests), 1 + plain.shadowed)
    labels = {ref: label for way in ways for ref, label in way.labels.items()}
    names = [_name(variant, way) for variant, way in zip(body.variants, ways, strict=True)]
    return replace(
        ask,
        requests=tuple(requests),
        resolved=Resolved(plain.steering, labels),
        variants=(UNSTEERED, *names),
    )


def _unsteered(body: CompareRequest) -> CompareRequest:
    """Without the vectors, which are for the variants to add."""
    if body.steering is None:
        return body
    return body.model_copy(update={"steering": body.steering.model_copy(update={"vectors": {}})})


def _resolve(deck: Deck, i: int, variant: Variant, known: Mapping[str, Vector]) -> Resolved:
    where = f"variants[{i}]"
    try:
        with named(where):
            return resolve_change(deck, variant, known)
    except SteerdeckError as exc:
        raise type(exc)(f"{where}: {exc}", param=exc.param) from exc


def _check_room(deck: Deck, replies: int, rows: int) -> None:
    """rows: that one reply takes."""
    limits = deck.engine.capabilities
    room = (limits.max_rows + limits.max_waiting) // rows
    if replies > room:
        raise BadRequest(
            f"{replies - 1} variants and the unsteered reply are {replies * rows} rows, more than "
            f"this server has to run and to wait in: send at most {max(room - 1, 0)} variants"
            + (', or leave "kl" and "top" out of trace' if rows > 1 else ""),
            param="variants",
        )


def _name(variant: Variant, way: Resolved) -> str:
    """What the variant is called: by its caller, else by what it does."""
    edits = [
        f"{way.labels.get(edit.ref) or edit.feature} {edit.op} {edit.strength:g}"
        for edit in way.steering.edits
    ]
    return variant.label or variant.preset or ", ".join(edits) or UNSTEERED


class CompareWriter(ChatWriter):
    """Chunks are those of a chat, each with the `variant` it belongs to."""

    object = "comparison"
    chunk_object = "comparison.chunk"

    def whole(self) -> dict[str, Any]:
        variants = [self._variant(i) for i in range(len(self.rows))]
        return {**self._head(self.object), "variants": variants, "usage": self._usage()}

    def _variant(self, i: int) -> dict[str, Any]:
        row = self.rows[i]
        choice = self.choice(i, "".join(row.texts), row.tokens, str(row.end.reason))
        told: SteeringTold = traced(row.tokens, self.trace)
        told["applied"] = self._applied_to(i)
        if row.end.alarms:
            told["guard"] = alarms(row.end.alarms)
        told["receipt"] = self._receipt(i, row)
        usage = {"completion_tokens": row.end.completion_tokens}
        return {"label": self.ask.variants[i], **choice, "usage": usage, "steering": told}

    def opening(self) -> Iterator[dict[str, Any]]:
        for i in range(len(self.rows)):
            told = {"id": self.ask.id, "applied": self._applied_to(i)}
            yield self._tagged(i, self._chunk([self.opening_choice(i)])) | {"steering": told}

    def chunk(self, row: int, event: Delta | Finish) -> dict[str, Any] | None:
        told = super().chunk(row, event)
        return None if told is None else self._tagged(row, told)

    def _tagged(self, row: int, chunk: dict[str, Any]) -> dict[str, Any]:
        return {**chunk, "variant": {"index": row, "label": self.ask.variants[row]}}

    def _applied_to(self, i: int) -> list[Any]:
        return applied(self.ask.requests[i].steering, self.ask.resolved.labels)
