"""Decoder layers whose parts are all our own code's, run in one call each, or many in one.

So it is for Llama, Mistral and Qwen 2. Hooks see what they always see: layers run together up to
the next that is hooked, and one that is hooked inside goes part by part.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast

from .attention import STEP
from .fused import Attention, Mlp, Norm, gap
from .native import layers
from .native.whole import Run, Whole
from .sites import decoder_layers
from .written import Call, calls, if_it_can

log = logging.getLogger("steerdeck.engine")

_FAMILIES = "Llama", "Mistral", "Qwen2"
_LAYERS = {f"{family}DecoderLayer" for family in _FAMILIES}
_BODIES = {f"{family}Model" for family in _FAMILIES}


def stack(model: Any, step: Callable[[], object]) -> int:
    """Put whole layers in place of those that are fused, where they give the same bits; returns how
    many. step: see `fuse`.
    """
    known = [module for module in model.modules() if layers.able() and _is(module, _LAYERS)]
    fused = [module for module in known if isinstance(module.self_attn.forward, Attention)]
    done: list[Layer] = []

    def run(_tokens: int) -> object:
        return step()

    for module, call in (calls(fused, run, 1) if fused else {}).items():
        layer = if_it_can(Layer, module)
        if layer is not None and if_it_can(gap, module.forward, layer, call) == 0.0:
            done.append(layer)
    if not done:
        return 0
    for layer in done:
        layer.put_in()
    for layer, following in pairwise(done):
        layer.leads_to(following)
    for body, call in calls([m for m in model.modules() if _is(m, _BODIES)], run, 1).items():
        own = Body(body)
        if if_it_can(_same, body.forward, own, call):
            body.forward = own
    log.info("%d layers are run whole", len(done))
    return len(done)


def whole(model: Any) -> bool:
    """Whether all of its layers are such."""
    return all(isinstance(layer.forward, Layer) for layer in decoder_layers(model))


def _is(module: Any, names: set[str]) -> bool:
    kind = type(module)
    return kind.__name__ in names and kind.__module__.startswith("transformers.models.")


def _same(own: Callable[..., Any], other: Callable[..., Any], call: Call) -> bool:
    found = []
    for forward in (own, other):
        STEP.get().computed = 0
        with torch.no_grad():
            found.append(forward(*call[0], **call[1]).last_hidden_state)
    return torch.equal(*found)


class Layer:
    """The forward of a decoder layer. Where it has run others along, theirs give what they get."""

    def __init__(self, module: Any) -> None:
        attention, mlp = module.self_attn, module.mlp
        norms = module.input_layernorm, module.post_attention_layernorm
        parts = attention.forward, mlp.forward, *(norm.forward for norm in norms)
        kinds = Attention, Mlp, Norm, Norm
        if not all(map(isinstance, parts, kinds)) or attention.forward.normed:
            raise TypeError("its parts are not fused")
        self._module, self._own, self._attention = module, module.forward, attention.forward
        self.index: int = attention.layer_idx
        # Those of a module are in these from its beginning to its end.
        inside = [part for part in module.modules() if part is not module]
        self._watched = [
            hooks for part in inside for hooks in (part._forward_pre_hooks, part._forward_hooks)
        ]
        heads, kv_heads, _ = self._attention.heads
        self._like = torch.empty(1, kv_heads, 1, self._attention.dim)
        self._whole = Whole(
            [(norm.forward.weight, norm.forward.eps) for norm in norms],
            [
                attention.forward.product,
                attention.o_proj.forward,
                mlp.forward.product,
                mlp.down_proj.forward,
            ],
            heads=heads,
            window=self._attention.window,
            scale=self._attention.scale,
        )
        self._next: Layer | None = None
        self._runs: dict[int, Run] = {}  # by their number of layers

    def put_in(self) -> None:
        self._module.forward = self

    def leads_to(self, following: Layer) -> None:
        if following.index == self.index + 1:
            self._next = following

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        step, rotation = STEP.get(), kwargs.get("position_embeddings")
        if self.index < step.computed:
            return hidden_states
        if rotation is None or any(self._watched):
            own: Tensor = self._own(hidden_states, *args, **kwargs)
            return own
        together = self._together()
        for layer in together:
            layer._whole.over(*layer._attention.slots(step, layer._like))
        run = self._runs.get(len(together))
        if run is None:
            run = self._runs[len(together)] = Run([layer._whole for layer in together])
        cos, sin = rotation
        out = run(hidden_states, cos, sin, step)
        step.computed = self.index + len(together)
        return out

    def _together(self) -> list[Layer]:
        """This layer, and those after it as far as nobody comes between them."""
        found = [self]
        while not self._hooked(found[-1]):
            following = found[-1]._next
            if following is None or following._module.forward is not following:
                break
            if self._hooked(following) or any(following._watched):
                break
            found.append(following)
        return found

    @staticmethod
    def _hooked(layer: Layer) -> bool:
        return bool(layer._module._forward_hooks or layer._module._forward_pre_hooks)


class Body:
    """The forward of what is below a model's head. Layers that have run along are not called."""

    def __init__(self, module: Any) -> None:
        self._module, self._own = module, module.forward
        self._layers = list(module.layers)

    def __call__(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        **more: Any,
    ) -> Any:
        if input_ids is None or use_cache or any(one is not None for one in more.values()):
            given = {"attention_mask": attention_mask, "position_ids": position_ids, **more}
            return self._own(input_ids=input_ids, use_cache=use_cache, **given)
        x = self._module.embed_tokens(input_ids)
        how = {
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "position_embeddings": self._module.rotary_emb(x, position_ids=position_ids),
        }
        step, at = STEP.get(), 0
        while at < len(self._layers):
            x = self._layers[at](x, **how)
            at = max(at + 1, step.computed)
        return BaseModelOutputWithPast(last_hidden_state=self._module.norm(x))
