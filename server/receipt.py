"""The receipt that ends every reply: enough to check what was done, and to do it again."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .alarms import alarms, wire_guard
from .deck import Deck
from .engine.conditions import Condition, Timing
from .engine.guard import Mode
from .engine.types import Change, FeatureEdit, Finish, FinishReason, Request, Sampling, Steering
from .engine.vectors import Vector
from .vectors import vectors_of


@cache
def versions() -> dict[str, str]:
    """Of what decides the numbers."""
    found = {}
    for name in ("steerdeck", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def fingerprint(deck: Deck) -> str:
    """OpenAI's system_fingerprint: changes when the same seed may give other bytes."""
    what = [
        deck.revision,
        deck.engine.capabilities.device,
        deck.engine.capabilities.dtype,
        "compiled" if deck.engine.compilation == "on" else "eager",
        *(f"{name}={d.info.revision}" for name, d in deck.dictionaries.items()),
        *versions().values(),
    ]
    return "fp_" + hashlib.sha256("\n".join(what).encode()).hexdigest()[:12]


def prompt_sha256(prompt: tuple[int, ...]) -> str:
    """Of the prompt's token ids, each as four bytes, little endian."""
    return hashlib.sha256(b"".join(i.to_bytes(4, "little") for i in prompt)).hexdigest()


def wire_edit(edit: FeatureEdit) -> dict[str, Any]:
    """As a request may send it, in activations: what `replay` and `timeline` are made of."""
    return {
        "feature": edit.ref,
        "op": str(edit.op),
        "strength": edit.strength,
        "unit": "raw",
        "where": str(edit.where),
        **_timing(edit.timing),
    }


def _timing(timing: Timing) -> dict[str, Any]:
    """What of it says anything."""
    window = {"first": timing.first, "last": timing.last}
    told = {
        "when": wire_condition(timing.when) if timing.when else None,
        "window": window if any(at is not None for at in window.values()) else None,
        "decay": timing.half_life,
        "thinking": str(timing.thinking) if timing.thinking else None,
    }
    return {name: value for name, value in told.items() if value is not None}


def wire_condition(condition: Condition) -> dict[str, Any]:
    return {
        "feature": f"{condition.dictionary}/{condition.feature}",
        "op": str(condition.op),
        "value": condition.value,
        "unit": "raw",
        "latch": condition.latch,
    }


def _aborts(steering: Steering) -> dict[str, Any]:
    return {"abort": [wire_condition(c) for c in steering.aborts]} if steering.aborts else {}


def applied(steering: Steering, labels: dict[str, str | None]) -> list[dict[str, Any]]:
    """What a reply says about its edits before it begins."""
    told = [wire_edit(edit) for edit in steering.edits]
    return [{**edit, "label": labels.get(edit["feature"])} for edit in told]


def receipt(deck: Deck, request: Request, finish: Finish) -> dict[str, Any]:
    """See server/README.md for each field."""
    capabilities = deck.engine.capabilities
    began = _beginning(request, finish)
    changes = (*request.changes, *finish.timeline)
    acted = [request.steering, *(change.steering for change in changes)]
    used = dict.fromkeys(e.dictionary for s in acted for e in s.edits if e.vector is None)
    used |= dict.fromkeys(c.dictionary for s in acted for c in s.conditions)
    return {
        "model": deck.model,
        "model_revision": deck.revision,
        "model_source": deck.sources.get("model"),
        "dictionaries": [
            {
                "id": name,
                "revision": deck.dictionaries[name].info.revision,
                "source": deck.sources.get(name),
            }
            for name in used
        ],
        **_vectors([began, *(change.steering for change in finish.timeline)]),
        "edits": [_in_full(edit) for edit in began.edits],
        "norm": _norm(began),
        **_aborts(began),
        "timeline": [_entry(change) for change in finish.timeline],
        **_conditions(finish),
        **_guard(request, finish),
        "tokens_edited": finish.tokens_edited,
        "prompt_sha256": prompt_sha256(request.prompt),
        "seed": request.sampling.seed,
        "sampling": _sampling(request.sampling),
        "versions": versions(),
        "device": capabilities.device,
        "dtype": capabilities.dtype,
        "arithmetic": " then ".join(finish.arithmetic) or "none",
        "replay": _replay(deck, request, finish),
    }


def _beginning(request: Request, finish: Finish) -> Steering:
    """What its prompt was steered by: not what was asked, if that was changed before it ran."""
    first = finish.timeline[:1]
    return first[0].steering if first and first[0].at == 0 else request.steering


def _replay(deck: Deck, request: Request, finish: Finish) -> dict[str, Any] | None:
    """Fields to merge into a request with the same messages (or prompt; of several, its own).

    A reply that was stopped from outside is cut where it was: its length is the limit. None where
    it was stopped before its first token: no request asks for none.
    """
    beginning = _beginning(request, finish)
    changes = [change for change in finish.timeline if change.at > 0]
    vectors = vectors_of([beginning, *(change.steering for change in changes)])
    limit = request.sampling.max_tokens
    guard = request.guard
    backs_off = guard is not None and guard.mode is Mode.BACK_OFF  # and the timeline has it all
    if finish.reason is FinishReason.CANCELLED or (
        backs_off and finish.reason is FinishReason.GUARD
    ):
        limit = finish.completion_tokens
        if limit == 0:
            return None
    return {
        "model": deck.model,
        **_sampling(request.sampling),
        "max_completion_tokens": limit,
        "max_tokens": None,  # the older name of the same, should the request have used it
        "n": 1,  # of several, this one
        "seed": request.sampling.seed,
        "steering": {
            "edits": [wire_edit(edit) for edit in beginning.edits],
            **({"vectors": {v.name: _sent(v) for v in vectors.values()}} if vectors else {}),
            "norm": _norm(beginning),
            **_aborts(beginning),
            **({"guard": wire_guard(guard)} if guard and not backs_off else {}),
            "timeline": [_entry(change) for change in changes],
        },
    }


def _vectors(acted: Iterable[Steering]) -> dict[str, Any]:
    """Which came with the request or a live change; `replay` has what they hold."""
    found = vectors_of(acted).values()
    told = {v.name: {"sha256": v.sha256, "site": _site(v)} for v in found}
    return {"vectors": told} if told else {}


def _sent(vector: Vector) -> dict[str, Any]:
    return {"data": base64.b64encode(vector.file).decode(), "site": _site(vector)}


def _site(vector: Vector) -> dict[str, Any]:
    return {"layer": vector.site.layer, "hook": vector.site.hook}


def _entry(change: Change) -> dict[str, Any]:
    return {
        "at": change.at,
        "edits": [wire_edit(edit) for edit in change.steering.edits],
        "norm": _norm(change.steering),
        **_aborts(change.steering),
    }


def _guard(request: Request, finish: Finish) -> dict[str, Any]:
    if request.guard is None:
        return {}
    return {"guard": {**wire_guard(request.guard), "alarms": alarms(finish.alarms)}}


def _conditions(finish: Finish) -> dict[str, Any]:
    told = [{**wire_condition(met.condition), "first_met": met.at} for met in finish.conditions]
    return {"conditions": told} if told else {}


def _norm(steering: Steering) -> str | None:
    return "keep" if steering.keep_norm else None


def _in_full(edit: FeatureEdit) -> dict[str, Any]:
    """With the four numbers; an infinite bound is null."""
    numbers = edit.edit._asdict().items()
    bounds = {name: value if math.isfinite(value) else None for name, value in numbers}
    return {**wire_edit(edit), **bounds}


def _sampling(sampling: Sampling) -> dict[str, Any]:
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "max_completion_tokens": sampling.max_tokens,
        "stop": list(sampling.stop),
        **({"ignore_eos": True} if sampling.ignore_eos else {}),
    }
