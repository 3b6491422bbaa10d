"""Wire edits -> the engine's: names become rows, multiples become activations, presets dissolve.

Whatever cannot be applied exactly as asked is refused here, before anything is queued.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dictionaries.edits import Op

from .deck import Deck, FeatureName
from .engine.checks import check_steering
from .engine.conditions import Condition, Timing
from .engine.types import Change, FeatureEdit, Steering
from .engine.vectors import Vector, mounted
from .errors import BadRequest, UnknownModel, Unsteerable, named
from .schemas.conditions import STRENGTH, Unit, WireCondition
from .schemas.steering import PresetBody, SteeringChange, WireEdit, WireSteering
from .vectors import check_named, is_vector, named_vector, read_vectors, refuse_vector

SEPARATOR = "@"  # between model and preset in a model name


@dataclass(frozen=True)
class Resolved:
    """A request's steering in numbers, with the labels to tell the caller what was applied."""

    steering: Steering
    labels: dict[str, str | None]
    changes: tuple[Change, ...] = ()


def split_model(deck: Deck, model: str | None) -> str | None:
    """The preset a model name asks for, if any. Raises UnknownModel."""
    if model in (None, deck.model):
        return None
    _, found, preset = str(model).rpartition(SEPARATOR)
    if found and model == deck.model + SEPARATOR + preset and deck.presets.has(preset):
        return preset
    raise UnknownModel(
        f"{model!r} is not served here: send {deck.model!r}, or {deck.model}{SEPARATOR}preset "
        "with a preset that GET /v1/models lists",
        param="model",
    )


def resolve(deck: Deck, model: str | None, asked: WireSteering | None) -> Resolved:
    """What a request's `model` and `steering` ask for together."""
    asked = asked or WireSteering.model_validate({})
    preset = split_model(deck, model)
    if preset and asked.preset and preset != asked.preset:
        raise BadRequest(
            f"the model asks for preset {preset!r} and steering.preset for {asked.preset!r}: "
            "send one of them",
            param="steering.preset",
        )
    with named("steering"):
        vectors = read_vectors(deck, asked.vectors, {})
        name = asked.preset or preset
        first = _resolve(deck, asked.edits, name, asked.norm, asked.abort, vectors)
    labels = dict(first.labels)
    changes = []
    for i, entry in enumerate(asked.timeline):
        with named(f"steering.timeline[{i}]"):
            later = _resolve(deck, entry.edits, None, entry.norm, entry.abort, vectors)
        labels |= later.labels
        changes.append(Change(entry.at, later.steering))
    with named("steering"):
        check_named(asked.vectors, [first.steering, *(change.steering for change in changes)])
    return Resolved(first.steering, labels, tuple(changes))


def resolve_change(deck: Deck, asked: SteeringChange, known: Mapping[str, Vector]) -> Resolved:
    """What a live change asks for; it replaces all edits that held before.

    known: the vectors that it may name without bringing them.
    """
    vectors = read_vectors(deck, asked.vectors, known)
    found = _resolve(deck, asked.edits, asked.preset, asked.norm, asked.abort, vectors)
    check_named(asked.vectors, [found.steering])
    return found


def check_preset(deck: Deck, body: PresetBody) -> None:
    """Raise what a request with this preset would."""
    for i, edit in enumerate(body.edits):
        with named(f"edits[{i}]"):
            refuse_vector(edit.feature)
    _resolve(deck, body.edits, None, body.norm, (), {})


def _resolve(
    deck: Deck,
    edits: Iterable[WireEdit],
    preset: str | None,
    norm: str | None,
    aborts: Iterable[WireCondition],
    vectors: Mapping[str, Vector],
) -> Resolved:
    """The preset's edits first, then the request's own; a feature may appear once.

    What is refused, also by the engine's own check, names its field, seen from where these stand.
    """
    body = deck.presets.get(preset).body if preset else None
    steered = _Steered(deck, preset, vectors)
    with named("preset", whole=True):
        for edit in body.edits if body else ():
            refuse_vector(edit.feature)
            steered.add(edit)
    for i, edit in enumerate(edits):
        with named(f"edits[{i}]"):
            steered.add(edit)
    steered.end(aborts)
    keep = norm == "keep" or (body is not None and body.norm == "keep")
    steering = Steering(tuple(steered.edits.values()), keep, tuple(steered.ending))
    infos = {name: dictionary.info for name, dictionary in deck.dictionaries.items()}
    with named("edits", whole=True):
        check_steering(steering, infos, deck.engine.capabilities.max_edits)
    return Resolved(steering, steered.labels)


class _Steered:
    """Edits, and what ends the reply, as they are resolved one after the other."""

    def __init__(self, deck: Deck, preset: str | None, vectors: Mapping[str, Vector]) -> None:
        self._deck, self._preset, self._vectors = deck, preset, vectors
        self.edits: dict[str, FeatureEdit] = {}
        self.labels: dict[str, str | None] = {}
        self.ending: dict[Condition, None] = {}  # each once

    def add(self, edit: WireEdit) -> None:
        label: str | None
        if is_vector(edit.feature):
            vector = named_vector(str(edit.feature), self._vectors)
            made, label = _adding(self._deck, vector, edit), vector.name
        else:
            name = self._deck.find(edit.feature)
            made, label = _edit(self._deck, name, edit), name.label
        if made.ref in self.edits:
            both = f" (preset {self._preset!r} edits it already)" if self._preset else ""
            raise Unsteerable(
                f"{made.ref} is edited twice{both}: send each feature once, with one op",
                param="feature",
            )
        self.edits[made.ref] = made
        self.labels[made.ref] = label
        self.end(edit.abort)

    def end(self, aborts: Iterable[WireCondition]) -> None:
        for i, one in enumerate(aborts):
            with named(f"abort[{i}]"):
                found = _condition(self._deck, one.model_copy(update={"latch": False}))
            self.ending[found] = None


def _edit(deck: Deck, name: FeatureName, asked: WireEdit) -> FeatureEdit:
    info = deck.dictionaries[name.dictionary].info
    if asked.op.reads and not info.reads_exactly:
        raise Unsteerable(f"{name.ref}: {info.why_not}", param="op")
    strength = _strength(name, asked)
    edit = asked.op.edit(strength)
    timing = _timing(deck, name.ref, asked)
    return FeatureEdit(name.dictionary, name.feature, asked.op, strength, edit, asked.where, timing)


def _adding(deck: Deck, vector: Vector, asked: WireEdit) -> FeatureEdit:
    """Where the edit is silent nothing else is assumed: its defaults are those of features."""
    if asked.op is not Op.ADD:
        raise Unsteerable(
            f"{vector.ref}: the op {asked.op} came, and a vector can only be added, as nothing "
            'encodes it: it has no activation. Send "op": "add", "unit": "raw", where strength 1 '
            "adds it as it is",
            param="op",
        )
    if asked.unit != "raw":
        raise Unsteerable(
            f'{vector.ref} has no maximum to take multiples of: send "unit": "raw", where strength '
            "1 adds the vector as it is",
            param="unit",
        )
    strength = asked.strength or 0.0
    timing = _timing(deck, vector.ref, asked)
    place = mounted(vector.site)
    return FeatureEdit(
        place, 0, asked.op, strength, asked.op.edit(strength), asked.where, timing, vector
    )


def _timing(deck: Deck, ref: str, asked: WireEdit) -> Timing:
    if asked.thinking and not deck.engine.capabilities.thinks:
        raise Unsteerable(
            f"{ref}: thinking {asked.thinking.value!r} came, but {deck.model} marks no "
            "thinking blocks: leave it out",
            param="thinking",
        )
    first, last = (asked.window.first, asked.window.last) if asked.window else (None, None)
    with named("when"):
        when = _condition(deck, asked.when) if asked.when else None
    return Timing(when, first, last, asked.decay, asked.thinking)


def _condition(deck: Deck, asked: WireCondition) -> Condition:
    if is_vector(asked.feature):
        raise Unsteerable(
            f"{asked.feature}: a vector has no activation that a condition could read: name a "
            "feature of a dictionary",
            param="feature",
        )
    name = deck.find(asked.feature)
    with named("value"):
        value = _activation(name, asked.value, asked.unit, str(asked.op))
    return Condition(name.dictionary, name.feature, asked.op, value, asked.latch)


def _strength(name: FeatureName, asked: WireEdit) -> float:
    """In activations (for scale: the factor; for ablate: 0)."""
    if asked.op is Op.ABLATE:
        return 0.0
    strength = asked.strength or 0.0
    if not asked.op.has_unit:
        return strength
    with named("strength"):
        return _activation(name, strength, asked.unit, str(asked.op))


def _activation(name: FeatureName, value: float, unit: Unit, said: str) -> float:
    if unit == "raw":
        return value
    maximum = name.card.maximum if name.card else None
    if not maximum or maximum < 0:
        raise Unsteerable(
            f"{name.ref} has no known maximum, so {said} {value:g} times it means nothing: "
            'send "unit": "raw" with plain activations, or start the server with a cards file that '
            "has it (--cards; `steerdeck make describe` or `steerdeck features import` makes one)"
        )
    activation = value * maximum
    if abs(activation) > STRENGTH:
        raise Unsteerable(
            f"{name.ref}: {said} {value:g} times its maximum of {maximum:g} is an activation of "
            f"{activation:.3g}; {STRENGTH:g} is the most"
        )
    return activation
