"""What is around layers that run whole: a model's decoder and its head, in few calls of Python.

Between two steps a model's weights go through the processor's caches and leave nothing else in
them, so here each call of Python costs several times what it does in a loop. Transformers' own
forwards make masks that nobody reads, turn positions anew, and put what they made in classes that
take as long as a layer's attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .attention import STEP, SlotStep
from .fused import Norm
from .native.product import Native
from .native.whole import End

_FEWEST = 256  # positions that are turned at first
_STATIC = "default", "linear", "llama3", "yarn"  # each position by itself, whatever the others are


class Decoded(NamedTuple):
    """What a decoder gives, by transformers' names."""

    last_hidden_state: Tensor
    past_key_values: None = None
    hidden_states: None = None
    attentions: None = None


class Scored(NamedTuple):
    """What a model with a head gives, likewise."""

    logits: Tensor
    loss: None = None
    past_key_values: None = None
    hidden_states: None = None
    attentions: None = None


@dataclass(slots=True)
class Lead:
    """How far the layers have come that a body calls, of `count`. turns: what its rotations made of
    the positions. done: layers that it need not call any more. end: what is to follow the last,
    with that head; ended: whether it did.
    """

    head: Native | None = None
    end: End | None = None
    turns: Sequence[tuple[Tensor, Tensor]] = ()
    count: int = 0
    done: int = 0
    ended: bool = False


def kinds_of(body: Any) -> list[str | None]:
    """The kinds of layers that have a rotation of their own (Gemma 3's that slide); else None."""
    if not isinstance(body.rotary_emb.rope_type, dict):
        return [None]
    return list(dict.fromkeys(body.config.layer_types))


def turns_of(body: Any) -> list[int]:
    """By layer, which of these it has."""
    kinds = kinds_of(body)
    if kinds == [None]:
        return [0] * len(body.layers)
    return [kinds.index(kind) for kind in body.config.layer_types]


class Rotation:
    """The cos and sin of positions, made once by a model's own module and looked up from then on.

    Raises TypeError for one by which a position's may depend on what else is in the pass.
    """

    def __init__(self, module: Any, kind: str | None = None) -> None:
        rope = module.rope_type if kind is None else module.rope_type[kind]
        if rope not in _STATIC:
            raise TypeError(f"rotations of type {rope!r} are not of each position alone")
        self._module = module
        self._of: dict[str, str] = {} if kind is None else {"layer_type": kind}
        self._made: tuple[Tensor, Tensor] | None = None  # [positions, dim] each

    def __call__(self, x: Tensor, positions: Tensor, step: SlotStep) -> tuple[Tensor, Tensor]:
        """[1, tokens, dim] each, for positions [1, tokens] of the pass."""
        stop = max([step.longest, *(span.stop for span in step.batch.spans)])
        if self._made is None or len(self._made[0]) < stop:
            many = max(_FEWEST, stop, min(2 * stop, step.cache.capacity))
            upto = torch.arange(many, device=positions.device)
            cos, sin = self._module(x, position_ids=upto[None], **self._of)
            self._made = cos[0], sin[0]
        cos, sin = self._made
        return cos[positions], sin[positions]


class Body:
    """The forward of what is below a model's head. Layers that have run along are not called."""

    def __init__(self, module: Any) -> None:
        self._module, self._own = module, module.forward
        self._layers = list(module.layers)
        self._rotations = [Rotation(module.rotary_emb, kind) for kind in kinds_of(module)]
        self._turns = turns_of(module)
        self._ends: dict[Native | None, End] = {}

    def __call__(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        **more: Any,
    ) -> Any:
        step = STEP.get()
        lead, step.lead = step.lead or Lead(), None
        asked = use_cache or any(one is not None for one in more.values())
        if input_ids is None or position_ids is None or asked:
            given = {"attention_mask": attention_mask, "position_ids": position_ids, **more}
            return self._own(input_ids=input_ids, use_cache=use_cache, **given)
        lead.end, lead.count, step.computed = self._end(lead.head), len(self._layers), 0
        x = self._module.embed_tokens(input_ids)
        lead.turns = [turned(x, position_ids, step) for turned in self._rotations]
        how = {"attention_mask": attention_mask, "position_ids": position_ids}
        step.lead, at = lead, 0
        while at < lead.count:
            x = self._layers[at](x, position_embeddings=lead.turns[self._turns[at]], **how)
            at = max(at + 1, lead.done)
        step.lead = None
        return Decoded(x if lead.ended else self._module.norm(x))

    def _end(self, head: Native | None) -> End | None:
        """Where nobody looks on."""
        norm = self._module.norm
        if _hooked(norm) or not isinstance(norm.forward, Norm):
            return None
        if self._ends.get(head) is None:
            self._ends[head] = End((norm.forward.weight, norm.forward.eps), head)
        return self._ends[head]


class Head:
    """The forward of a model whose decoder is such."""

    def __init__(self, module: Any) -> None:
        if not isinstance(module.model.forward, Body):
            raise TypeError("its decoder is another")
        self._module, self._own, self._head = module, module.forward, module.lm_head
        self._cap: float | None = getattr(module.config, "final_logit_softcapping", None)

    def __call__(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **more: Any,
    ) -> Any:
        """logits_to_keep: the tokens whose logits are wanted; 0 for all."""
        every = isinstance(logits_to_keep, int)
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "use_cache": use_cache,
        }
        if more or (every and logits_to_keep != 0):
            return self._own(**given, logits_to_keep=logits_to_keep, **more)
        lead, head = Lead(), self._head
        if every and isinstance(head.forward, Native) and not _hooked(head):
            lead.head = head.forward
        STEP.get().lead = lead
        x = self._module.model(**given).last_hidden_state
        if lead.ended and lead.end is not None and lead.end.logits is not None:
            return self._scored(lead.end.logits)
        return self._scored(head(x if every else x[:, logits_to_keep]))

    def _scored(self, logits: Tensor) -> Scored:
        cap = self._cap
        return Scored(logits if cap is None else torch.tanh(logits / cap) * cap)


def _hooked(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
