"""Edits that do not always act, and the forward pass with them written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dictionaries.dictionary import Dictionary
from dictionaries.edits import Op
from server.engine.conditions import Condition, Crossing, Thinking, Timing
from server.engine.types import FeatureEdit, Request, Where

TEXT = "The bridge is red."
START = len(TEXT)  # position of the first reply token: a token is a byte
OPEN = START - 1  # tokens of the prompt that may be edited: not the first


def edit(feature: int, op: str, strength: float, name: str = "tiny", **timing: Any) -> FeatureEdit:
    where = Where(timing.pop("where", "all"))
    four = Op(op).edit(strength)
    return FeatureEdit(name, feature, Op(op), strength, four, where, Timing(**timing))


def above(feature: int, value: float, name: str = "tiny", *, latch: bool = False) -> Condition:
    return Condition(name, feature, Crossing.ABOVE, value, latch)


def below(feature: int, value: float, name: str = "tiny", *, latch: bool = False) -> Condition:
    return Condition(name, feature, Crossing.BELOW, value, latch)


class ByHand:
    """The whole sequence through the plain model at every token, edited by the words of the docs.

    met: the conditions, and the reply tokens (negative: of the prompt) at which each held.
    """

    def __init__(self, model: Any, request: Request, *dictionaries: Dictionary) -> None:
        self.model, self.request = model, request
        self.start, self.met = len(request.prompt), dict[Condition, list[int]]()
        self.ids, self.open = list(request.prompt), list(request.steerable)
        self.thinking = [False] * self.start
        self._now: dict[Condition, Tensor] = {}
        for one in dictionaries:
            layer = model.model.layers[one.info.site.layer]
            layer.register_forward_hook(lambda *a, one=one: self._edited(one, a[2]))

    def reply(self, count: int, marks: dict[int, bool] | None = None) -> list[int]:
        for _ in range(count):
            token = self.model(torch.tensor([self.ids])).logits[0, -1].argmax().item()
            self.ids.append(token)
            self.open.append(token < 256)
            self.thinking.append((marks or {}).get(token, self.thinking[-1]))
        return self.ids[self.start :]

    def _edited(self, dictionary: Dictionary, x: Tensor) -> Tensor:
        f = dictionary.encode(x[0])
        name, touchable = dictionary.info.id, torch.tensor(self.open)
        for condition in self.request.steering.conditions:
            if condition.dictionary == name:
                own, value = f[:, condition.feature], condition.value
                holds = (own > value if condition.op is Crossing.ABOVE else own < value) & touchable
                self.met[condition] = (holds.nonzero()[:, 0] - self.start).tolist()
                self._now[condition] = holds.cumsum(0) > 0 if condition.latch else holds
        y = x.clone()
        for one in self.request.steering.edits:
            if one.dictionary == name:
                scale, shift, floor, ceiling = one.edit
                before = f[:, one.feature]
                after = (scale * before + shift).clamp(floor, ceiling)
                change = self._weights(one, touchable) * (after - before)
                y[0] += change[:, None] * dictionary.rows([one.feature]).dec[0]
        return y

    def _weights(self, one: FeatureEdit, touchable: Tensor) -> Tensor:
        at, timing = torch.arange(len(self.ids)) - self.start, one.timing
        acts, thinking = touchable.clone(), torch.tensor(self.thinking)
        if one.where is not Where.ALL:
            acts &= (at < 0) if one.where is Where.PROMPT else (at >= 0)
        if timing.first is not None:
            acts &= at >= timing.first
        if timing.last is not None:
            acts &= at <= timing.last
        if timing.thinking is not None:
            acts &= (at >= 0) & (thinking == (timing.thinking is Thinking.ONLY))
        if timing.when is not None:
            acts &= self._now[timing.when]
        weights = acts.float()
        if timing.half_life is not None:
            weights *= 0.5 ** ((at - (timing.first or 0)).clamp(min=0) / timing.half_life)
        return weights


RARE = above(5, 3.1, "low")  # in an unsteered reply to TEXT at prompt token 2 and reply token 2, 8


@pytest.fixture(scope="module")
def three(make_dictionary: Callable[..., Dictionary], dictionary: Dictionary) -> list[Dictionary]:
    """At layers 0, 1 and 2."""
    low, high = make_dictionary("low", layer=0, seed=5), make_dictionary("high", layer=2, seed=6)
    return [low, dictionary, high]
