"""When an edit of the rack acts: what the service's API takes beside strength and place, in words.

when.js says the same words of what is set on the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FIELDS = ("when", "abort", "window", "decay", "thinking")
_SIGNS = {"above": ">", "below": "<"}
_THINKING = {"only": "in thinking blocks only", "after": "outside of thinking blocks"}


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Condition(_Checked):
    feature: int | Annotated[str, Field(min_length=1, max_length=200)]
    op: Literal["above", "below"] = "above"
    value: float
    unit: Literal["max", "raw"] = "max"
    latch: bool = False

    def said(self, labels: Mapping[str, str]) -> str:
        unit = "×" if self.unit == "max" else ""
        name = labels.get(str(self.feature), self.feature)
        return f"{name} {_SIGNS[self.op]} {self.value:g}{unit}"


class Window(_Checked):
    first: int | None = None
    last: int | None = None

    def said(self) -> str:
        if self.last is None:
            return f"from token {self.first or 0}"
        return f"on tokens {self.first or 0} to {self.last}"


class Timing(_Checked):
    when: Condition | None = None
    abort: Annotated[tuple[Condition, ...], Field(max_length=8)] = ()
    window: Window | None = None
    decay: Annotated[float, Field(gt=0)] | None = None
    thinking: Literal["only", "after"] | None = None

    def wire(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True)

    def said(self, labels: Mapping[str, str] | None = None) -> str:
        """In a few words; empty where the edit always acts. labels: of features, by reference."""
        told, labels = [], labels or {}
        if self.when is not None:
            told.append(f"{'once' if self.when.latch else 'while'} {self.when.said(labels)}")
        if self.window is not None:
            told.append(self.window.said())
        if self.decay is not None:
            told.append(f"halved every {self.decay:g} tokens")
        if self.thinking is not None:
            told.append(_THINKING[self.thinking])
        told += [f"stops the reply when {condition.said(labels)}" for condition in self.abort]
        return ", ".join(told)


ALWAYS = Timing()


def conditions(edit: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those of a wire edit, of whatever form it is."""
    aborts = edit.get("abort")
    listed = [edit.get("when"), *(aborts if isinstance(aborts, list) else [])]
    return [one for one in listed if isinstance(one, Mapping) and "feature" in one]


def renamed(edit: Mapping[str, Any], refs: Mapping[str, str]) -> dict[str, Any]:
    """The edit with the features of its conditions named by these references."""

    def new(condition: Any) -> Any:
        known = isinstance(condition, Mapping) and refs.get(str(condition.get("feature")))
        return {**condition, "feature": known} if known else condition

    changed = dict(edit)
    if edit.get("when"):
        changed["when"] = new(edit["when"])
    if isinstance(edit.get("abort"), list):
        changed["abort"] = [new(one) for one in edit["abort"]]
    return changed
