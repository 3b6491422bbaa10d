"""What is loaded, once it is: the engine and everything that is known about its features."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from dictionaries.cards import Card, Cards
from dictionaries.dictionary import Dictionary
from dictionaries.errors import DictionaryError
from dictionaries.fit import Fit

from .engine.seam import Engine
from .errors import BadRequest, NotFound, UnknownFeature
from .presets import Presets
from .stand_in import StandIn


@dataclass(frozen=True)
class Defaults:
    """Sampling where a request is silent: the model's generation_config, else ours."""

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 512  # capped by what fits the context
    # What the generation_config asks for beyond that and is not done.
    unbuilt: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureName:
    """A feature as it is spoken of: which dictionary, which row, and its card if there is one."""

    dictionary: str
    feature: int
    card: Card | None

    @property
    def ref(self) -> str:
        return f"{self.dictionary}/{self.feature}"

    @property
    def label(self) -> str | None:
        return self.card.label if self.card else None


@dataclass(frozen=True)
class Deck:
    """One model, its dictionaries (never none of them the first is the default) and their cards."""

    engine: Engine
    tokenizer: Any
    model: str  # name on the wire
    revision: str  # hash of the model's files, 16 hex digits
    dictionaries: Mapping[str, Dictionary]
    cards: Mapping[str, Cards]  # of those dictionaries that have any
    presets: Presets
    defaults: Defaults = Defaults()
    # Of what came from the hub, "org/repo@commit/sub/folder": of "model" and of dictionaries by id.
    sources: Mapping[str, str] = field(default_factory=dict)
    fits: Mapping[str, Fit] = field(default_factory=dict)  # of dictionaries that were measured
    lengths: Mapping[str, float] = field(default_factory=dict)  # at their sites: `fit.length`
    stand_in: StandIn | None = None  # for features without a card; None: they stay bare
    created: int = field(default_factory=lambda: int(time.time()))

    @cached_property
    def longest_token(self) -> int:
        """Bytes: no token stands for more. Whatever the vocabulary's spelling, as ▁ for a blank, it
        is no shorter than the text.
        """
        return max(len(token.encode()) for token in self.tokenizer.get_vocab())

    def dictionary(self, name: str | None) -> Dictionary:
        """The one called `name`, or the first. Raises NotFound."""
        if name is None:
            if not self.dictionaries:
                raise NotFound(
                    "no dictionary is loaded: start the server with --dictionary",
                    param="dictionary",
                )
            return next(iter(self.dictionaries.values()))
        if name not in self.dictionaries:
            raise NotFound(
                f"there is no dictionary {name!r}; loaded: {self._names()}", param="dictionary"
            )
        return self.dictionaries[name]

    def find(self, ref: int | str, *, examples: bool = False) -> FeatureName:
        """The feature an id, `dictionary/id`, slug or `dictionary/slug` names.

        examples: whether its card comes with them; steering needs none, and they cost most.
        Raises UnknownFeature, or BadRequest where more than one dictionary could be meant.
        """
        if isinstance(ref, int):
            return self._by_id(self._only(ref), ref, examples)
        where, slash, rest = ref.rpartition("/")
        name = rest if slash else ref
        if name.isascii() and name.isdigit() and len(name) < 11:
            return self._by_id(where if slash else self._only(ref), int(name), examples)
        return self._by_slug(name, [where] if slash else list(self.dictionaries), examples)

    def shown(self, names: Sequence[FeatureName]) -> list[FeatureName]:
        """The same features; those without a card get what the logit lens says of them."""
        if self.stand_in is None:
            return list(names)
        bare: dict[str, list[int]] = {}
        for name in names:
            if name.card is None:
                bare.setdefault(name.dictionary, []).append(name.feature)
        made = {
            (dictionary, card.feature): card
            for dictionary, ids in bare.items()
            for card in self.stand_in.cards(self.dictionaries[dictionary], ids)
        }
        return [
            replace(name, card=name.card or made[name.dictionary, name.feature]) for name in names
        ]

    def reach(self, name: FeatureName) -> float | None:
        """The strength, in activations, at which an `add` of the feature is as long as what it is
        added to; None where that was not measured. One decoder row is read.
        """
        length = self.lengths.get(name.dictionary)
        if length is None:
            return None
        try:
            row = float(self.dictionaries[name.dictionary].rows([name.feature]).dec.norm())
        except DictionaryError:  # a damaged row: steering by it is refused with what is wrong
            return None
        return length / row if 0 < row < math.inf else None

    def _by_id(self, dictionary: str, feature: int, examples: bool) -> FeatureName:
        if dictionary not in self.dictionaries:
            raise UnknownFeature(
                f"{dictionary}/{feature}: there is no dictionary {dictionary!r}; "
                f"loaded: {self._names()}",
                param="feature",
            )
        info = self.dictionaries[dictionary].info
        if not 0 <= feature < info.d_sae:
            raise UnknownFeature(
                f"feature {feature}: {dictionary} has features 0..{info.d_sae - 1}",
                param="feature",
            )
        cards = self.cards.get(dictionary)
        card = None if cards is None else cards.get(feature, examples=examples)
        return FeatureName(dictionary, feature, card)

    def _by_slug(self, slug: str, dictionaries: list[str], examples: bool) -> FeatureName:
        found = [
            (name, card)
            for name in dictionaries
            if name in self.cards and (card := self.cards[name].by_slug(slug, examples=examples))
        ]
        if len(found) > 1:
            choices = ", ".join(f"{name}/{slug}" for name, _ in found)
            raise BadRequest(
                f"{slug!r} names several features: send one of {choices}", param="feature"
            )
        if not found:
            raise UnknownFeature(
                f"no feature is called {slug!r}: send an id, dictionary/id or a slug that "
                f"GET /v1/features?q=… lists; dictionaries: {self._names()}",
                param="feature",
            )
        name, card = found[0]
        return FeatureName(name, card.feature, card)

    def _only(self, ref: int | str) -> str:
        if len(self.dictionaries) == 1:
            return next(iter(self.dictionaries))
        raise BadRequest(
            f"feature {ref}: {len(self.dictionaries)} dictionaries are loaded "
            f"({self._names()}), so send dictionary/{ref}",
            param="feature",
        )

    def _names(self) -> str:
        return ", ".join(self.dictionaries) or "none"
