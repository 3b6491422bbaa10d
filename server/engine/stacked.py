"""Decoder layers whose parts are all our own code's, run in one call each, or many in one.

So it is for Llama, Mistral, Qwen 2 and 3 and Gemma. Hooks see what they always see: layers run
together up to one whose output is looked at, or before one that is hooked otherwise, and one that
is hooked inside goes part by part.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .around import Body, Head, turns_of
from .attention import STEP, SlotStep
from .cache import SlotCache
from .fused import Attention, Mlp, Norm, gap
from .native import layers
from .native.edits import Move
from .native.layers import Weighing
from .native.whole import Run, Whole
from .sites import OnOutput, decoder_layers, post_normed
from .written import Call, calls, if_it_can

log = logging.getLogger("steerdeck.engine")

_FAMILIES = "Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3"
_LAYERS = {f"{family}DecoderLayer" for family in _FAMILIES}
_BODIES = {f"{family}{text}Model" for family in _FAMILIES for text in ("", "Text")}
_HEADS = {f"{family}ForCausalLM" for family in _FAMILIES}


def stack(model: Any, step: Callable[[], object]) -> int:
    """Put whole layers in place of those that are fused, where they give the same bits; returns how
    many. step: see `fuse`.
    """
    known = [module for module in model.modules() if layers.able() and _is(module, _LAYERS)]
    fused = [module for module in known if isinstance(module.self_attn.forward, Attention)]
    done: list[Layer] = []

    def run(_tokens: int) -> object:
        return step()

    seen = calls(fused, run, 1) if fused else {}
    for module, call in seen.items():
        layer = if_it_can(Layer, module)
        if layer is not None and if_it_can(gap, module.forward, layer, call) == 0.0:
            done.append(layer)
    if not done:
        return 0
    for layer in done:
        layer.put_in()
    for kinds, around in ((_BODIES, Body), (_HEADS, Head)):
        found = [module for module in model.modules() if _is(module, kinds)]
        for body in found if around is Body else ():
            if_it_can(_connect, body)
        for module, call in calls(found, run, 1).items():
            own = if_it_can(around, module)
            if own is not None and if_it_can(_same, module.forward, own, call):
                module.forward = own
    log.info("%d layers are run whole", len(done))
    return len(done)


def _connect(body: Any) -> None:
    """Let its layers run others along. A model around one that also sees is called alike, and has
    no layers: it raises, as does a body whose rotations cannot be told.
    """
    turns = turns_of(body)
    whole = [layer.forward for layer in body.layers]
    for layer, turn in zip(whole, turns, strict=True):
        if isinstance(layer, Layer):
            layer.turn_by(turn)
    for layer, following in pairwise(whole):
        if isinstance(layer, Layer) and isinstance(following, Layer):
            layer.leads_to(following)


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
            given = forward(*call[0], **call[1])
        found.append(given.logits if hasattr(given, "logits") else given.last_hidden_state)
    return torch.equal(*found)


def _norms(layer: Any) -> dict[str, Any]:
    """By their places, see `native.whole.NORMS`."""
    attention = layer.self_attn
    found = {"before": layer.input_layernorm, "between": layer.post_attention_layernorm}
    if post_normed(layer):
        found["between"] = layer.pre_feedforward_layernorm
        found["attended"] = layer.post_attention_layernorm
        found["gated"] = layer.post_feedforward_layernorm
    if attention.forward.normed:
        found |= {"queries": attention.q_norm, "keys": attention.k_norm}
    return found


class Layer:
    """The forward of a decoder layer. Where it has run others along, theirs give what they get."""

    def __init__(self, module: Any) -> None:
        attention, mlp = module.self_attn, module.mlp
        norms = {name: norm.forward for name, norm in _norms(module).items()}
        fused = isinstance(attention.forward, Attention) and isinstance(mlp.forward, Mlp)
        if not fused or not all(isinstance(norm, Norm) for norm in norms.values()):
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
            {name: (norm.weight, norm.eps) for name, norm in norms.items()},
            [
                attention.forward.product,
                attention.o_proj.forward,
                mlp.forward.product,
                mlp.down_proj.forward,
            ],
            heads=heads,
            weighing=Weighing.of(
                self._attention.window, self._attention.scale, self._attention.cap, None
            ),
            gelu=mlp.forward.gelu,
        )
        self._next: Layer | None = None
        self._cache: SlotCache | None = None  # whose slots it reads and writes
        self._runs: dict[int, Run] = {}  # by their number of layers

    def put_in(self) -> None:
        self._module.forward = self

    def turn_by(self, rotation: int) -> None:
        """By which of a body's rotations, counted as `around.turns_of` does."""
        self._whole.turn_by(rotation)

    def leads_to(self, following: Layer) -> None:
        self._next = following

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        step, rotation = STEP.get(), kwargs.get("position_embeddings")
        if self.index < step.computed:
            return hidden_states
        if rotation is None or any(self._watched):
            own: Tensor = self._own(hidden_states, *args, **kwargs)
            return own
        layers, moves = self._together(led=step.lead is not None)
        for layer in layers:
            layer._over(step)
        run = self._runs.get(len(layers))
        if run is None:
            run = self._runs[len(layers)] = Run([layer._whole for layer in layers])
        last, end = layers[-1], None
        step.computed = last.index + 1
        looked_at = bool(last._module._forward_hooks) and len(layers) - 1 not in moves
        if step.lead is not None:
            step.lead.done = step.computed - (looked_at and last is not self)
            if step.computed == step.lead.count and not looked_at:
                end, step.lead.ended = step.lead.end, step.lead.end is not None
        turns = step.lead.turns if step.lead else [rotation] * (self._whole.rotation + 1)
        return run(hidden_states, turns, step, moves, end)

    def _over(self, step: SlotStep) -> None:
        step.windows[self.index] = self._attention.window
        if self._cache is not step.cache:
            self._whole.over(*self._attention.slots(step, self._like))
            self._cache = step.cache

    def _together(self, *, led: bool) -> tuple[list[Layer], dict[int, list[Move]]]:
        """This layer, and those after it as far as nobody comes between them; and what our own code
        does to the outputs of some, by their place: who leads need not call these.
        """
        found: list[Layer] = [self]
        moves: dict[int, list[Move]] = {}
        while True:
            if hooks := found[-1]._module._forward_hooks:
                own = _moves(hooks) if led and len(found) > 1 else None
                if own is None:
                    break
                moves[len(found) - 1] = own
            following = found[-1]._next
            if following is None or not following._runs_along():
                break
            if not led and following._whole.rotation != self._whole.rotation:
                break  # of a body that is not ours, only its own rotation is known
            found.append(following)
        return found, moves

    def _runs_along(self) -> bool:
        """Whether all that anyone may want to see of it is its output."""
        module = self._module
        if module.forward is not self or module._forward_pre_hooks or any(self._watched):
            return False
        hooks = module._forward_hooks
        return not hooks or all(isinstance(hook, OnOutput) for hook in hooks.values())


def _moves(hooks: Mapping[int, OnOutput]) -> list[Move] | None:
    """What stands for all of these; None where nothing does."""
    first, *others = hooks.values()
    return None if others else first.moves()
