"""Parts of decoder layers, fused: the same arithmetic in fewer kernels, or fewer calls.

Each takes some microseconds however little it does, and transformers' layers have forty of them
beside the products. Here queries, keys and values are one product, then rotated and put in their
slots by one kernel; gate and up are one product and multiplied by one; a norm is one. On a GPU they
are Triton's (`gpu/`), on a CPU of our own code (`native/`).

They round otherwise than transformers' own, by as much as such numbers do. Every part is compared
with it on a step of this model, and one that differs by more stays as it was, as do parts of
classes that are not known. A chunk of a prompt goes through a layer's own attention.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .attention import STEP, SlotStep
from .gpu import plain
from .gpu.single import choose
from .native import layers, whole
from .written import MLPS, NORMS, Call, calls, if_it_can, known, told

log = logging.getLogger("steerdeck.engine")

_FLOAT32, _HALF = 1e-4, 1e-2  # how far a part may differ, of the norm of what it gives
_LAYERS = {f"{family}DecoderLayer" for family in ("Llama", "Mistral", "Qwen2")}
_SILU = "SiLU", "SiLUActivation"


def operators(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """Where the small operators come from; None where there are no better ones than torch's."""
    if device.type == "cuda":
        return _on_gpu(device)
    return layers if device.type == "cpu" and dtype == torch.float32 and layers.able() else None


def _on_gpu(device: torch.device) -> ModuleType:
    """Triton, or torch where that is not to be had."""
    if device.index not in (None, torch.cuda.current_device()):
        return plain
    try:
        from .gpu import kernels as found

        width = 128
        x = torch.ones(2, width, device=device)
        found.rms_norm(x, x[0], 1e-6)  # compiles: this takes a compiler of C as well
        torch.cuda.synchronize(device)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        log.warning("steps are slower without Triton: %s: %s", type(error).__name__, first)
        return plain
    return found


def fuse(model: Any, step: Callable[[], object], ops: ModuleType | None = None) -> int:
    """Put fused parts in place of a model's own where they agree with it; returns how many.

    step: a pass over decoding rows only, whose keys and values are to be cleared.
    """
    modules = list(filter(known, model.modules()))
    if not modules:
        return 0
    ops = operators(model.device, model.dtype) if ops is None else ops
    if ops is None:
        return 0
    near = _FLOAT32 if model.dtype == torch.float32 else _HALF
    wholes = list(filter(_a_layer, model.modules() if ops is layers else ()))
    seen = calls([*modules, *wholes], lambda _tokens: step(), 1)
    whole_calls = {layer: seen.pop(layer) for layer in wholes if layer in seen}
    found: list[Any] = []
    done: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for module, call in seen.items():
        part = if_it_can(_fused, module, call, ops)
        apart = None if part is None else if_it_can(_apart, module.forward, part, call)
        name = type(module).__name__
        if apart is not None and apart <= near:
            module.forward = part
            found.append(part)
            done[name] += 1
        else:
            left[name] += 1
    for layer, call in whole_calls.items():
        part = if_it_can(_Layer, layer)
        if part is not None and if_it_can(_apart, layer.forward, part, call) == 0.0:
            layer.forward = part
            done[type(layer).__name__] += 1
    products = [part.product for part in found if isinstance(part, _Mlp | _Attention)]
    if singles := getattr(ops, "SINGLE", ()):
        choose(model, products, singles)
    if done:
        log.info("parts of layers are fused: %s", _counted(done))
    if left:
        log.info("parts of layers stay as they are: %s", _counted(left))
    return done.total()


def _a_layer(module: Any) -> bool:
    kind = type(module)
    return kind.__name__ in _LAYERS and kind.__module__.startswith("transformers.models.")


def _counted(names: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in names.items())


def _fused(module: Any, call: Call, ops: ModuleType) -> Callable[..., Any]:
    name = type(module).__name__
    if name in NORMS:
        return _Norm(module, ops)
    return _Mlp(module, ops) if name in MLPS else _Attention(module, told(module, call), ops)


def _apart(own: Callable[..., Any], fused: Callable[..., Any], call: Call) -> float:
    args, kwargs = call
    with torch.no_grad():
        expected, got = (forward(*args, **kwargs) for forward in (own, fused))
    if isinstance(expected, tuple):
        expected, got = expected[0], got[0]
    if expected.dtype != got.dtype or expected.shape != got.shape:
        raise TypeError("what it gives is of another type")
    gap = (expected.float() - got.float()).norm() / expected.float().norm().clamp_min(1e-30)
    return float(gap)


class _Norm:
    def __init__(self, module: Any, ops: ModuleType) -> None:
        self.weight, self.eps = module.weight, module.variance_epsilon
        self._norm = ops.rms_norm

    def __call__(self, x: Tensor) -> Tensor:
        normed: Tensor = self._norm(x, self.weight, self.eps)
        return normed


class _Mlp:
    """silu(gate(x)) * up(x), through `down`."""

    def __init__(self, module: Any, ops: ModuleType) -> None:
        if type(module.act_fn).__name__ not in _SILU:
            raise TypeError("its activation is another")
        self.product = ops.joined([module.gate_proj, module.up_proj])
        self._module, self._gated = module, ops.gated

    def __call__(self, x: Tensor) -> Tensor:
        down: Tensor = self._module.down_proj(self._gated(self.product(x)))
        return down


class _Attention:
    """An attention module's forward over the slots of the pass under way.

    how: what the module tells the attention function beside queries, keys and values.
    """

    def __init__(self, module: Any, how: dict[str, Any], ops: ModuleType) -> None:
        if how.get("softcap") is not None or how.get("s_aux") is not None:
            raise TypeError("its attention does more")
        self._module, self._own, self._ops = module, module.forward, ops
        self.dim: int = module.head_dim
        scaling = how.get("scaling")
        self.scale = self.dim**-0.5 if scaling is None else float(scaling)
        self.window: int | None = how.get("sliding_window")
        projections = module.q_proj, module.k_proj, module.v_proj
        self.heads = [one.out_features // self.dim for one in projections]
        self.normed = hasattr(module, "q_norm")
        self.product = ops.joined(projections)

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        if STEP.get().batch.spans:
            own: tuple[Tensor, Any] = self._own(*args, **kwargs)
            return own
        return self._decoded(*args, **kwargs)

    def _decoded(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor, None]:
        step, shape = STEP.get(), hidden_states.shape
        cos, sin = (one.view(shape[1], self.dim) for one in position_embeddings)
        made = self.product(hidden_states).view(shape[1], -1, self.dim)
        if self.normed:
            made = self._with_norms(made)
        like = made[:, -self.heads[2] :].transpose(0, 1)[None]
        keys, values = self.slots(step, like)
        query = self._ops.turned(made, cos, sin, keys, values, step.positions)
        out = self._ops.attend(query, keys, values, step, self.window, self.scale)
        return self._module.o_proj(out.reshape(*shape[:-1], -1)), None

    def slots(self, step: SlotStep, like: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of the rows that decode. like: keys, if there are no slots yet."""
        layer: int = self._module.layer_idx
        keys, values = step.cache.layer(layer, like, like)
        step.windows[layer] = self.window
        return keys[step.batch.rows], values[step.batch.rows]

    def _with_norms(self, made: Tensor) -> Tensor:
        query, key, value = torch.split(made, self.heads, 1)
        return torch.cat([self._module.q_norm(query), self._module.k_norm(key), value], 1)


class _Layer:
    """A decoder layer whose parts are all our own code's, in one call.

    Passes with prompts go part by part, and so does all where somebody looks inside: hooks on a
    part see it as ever.
    """

    def __init__(self, module: Any) -> None:
        attention, mlp = module.self_attn, module.mlp
        norms = module.input_layernorm, module.post_attention_layernorm
        parts = attention.forward, mlp.forward, *(norm.forward for norm in norms)
        kinds = _Attention, _Mlp, _Norm, _Norm
        if not all(map(isinstance, parts, kinds)) or attention.forward.normed:
            raise TypeError("its parts are not fused")
        self._own, self._attention = module.forward, attention.forward
        self._inside = [one for one in module.modules() if one is not module]
        heads, kv_heads, _ = self._attention.heads
        self._like = torch.empty(1, kv_heads, 1, self._attention.dim)
        self._whole = whole.Whole(
            [whole.Norm(norm.forward.weight, norm.forward.eps) for norm in norms],
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

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        step, rotation = STEP.get(), kwargs.get("position_embeddings")
        if step.batch.spans or rotation is None or any(map(_watched, self._inside)):
            own: Tensor = self._own(hidden_states, *args, **kwargs)
            return own
        cos, sin = rotation
        keys, values = self._attention.slots(step, self._like)
        return self._whole(hidden_states, cos, sin, keys, values, step)


def _watched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
