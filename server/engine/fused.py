"""Parts of decoder layers, fused: the same arithmetic in fewer kernels, or fewer calls.

Each takes some microseconds however little it does, and transformers' layers have forty of them
beside the products. Here queries, keys and values are one product, then rotated and put in their
slots by one kernel; gate and up are one product and multiplied by one; a norm is one. On a GPU they
are Triton's (`gpu/`), on a CPU of our own code (`native/`).

They round otherwise than transformers' own, by as much as such numbers do. Every part is compared
with it on a step of this model, and one that differs by more stays as it was, as do parts of
classes that are not known. On a GPU a chunk of a prompt goes through a layer's own attention.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .attention import STEP, SlotStep
from .gpu import plain
from .gpu.single import choose
from .native import layers
from .written import MLPS, NORMS, Call, calls, if_it_can, known, told, weight_of

log = logging.getLogger("steerdeck.engine")

_FLOAT32, _HALF = 1e-4, 1e-2  # how far a part may differ, of the norm of what it gives
_SILU, _GELU = ("SiLU", "SiLUActivation"), ("GELUTanh",)


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
    found: list[Any] = []
    done: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for module, call in calls(modules, lambda _tokens: step(), 1).items():
        part = if_it_can(_fused, module, call, ops)
        apart = None if part is None else if_it_can(gap, module.forward, part, call)
        name = type(module).__name__
        if apart is not None and apart <= near:
            module.forward = part
            found.append(part)
            done[name] += 1
        else:
            left[name] += 1
    products = [part.product for part in found if isinstance(part, Mlp | Attention)]
    if singles := getattr(ops, "SINGLE", ()):
        choose(model, products, singles)
    if done:
        log.info("parts of layers are fused: %s", _counted(done))
    if left:
        log.info("parts of layers stay as they are: %s", _counted(left))
    return done.total()


def _counted(names: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in names.items())


def _fused(module: Any, call: Call, ops: ModuleType) -> Callable[..., Any]:
    name = type(module).__name__
    if name in NORMS:
        return Norm(module, ops)
    return Mlp(module, ops) if name in MLPS else Attention(module, told(module, call), ops)


def gap(own: Callable[..., Any], fused: Callable[..., Any], call: Call) -> float:
    """How far what they give is apart, of the norm of what `own` gives."""
    args, kwargs = call
    with torch.no_grad():
        expected, got = (forward(*args, **kwargs) for forward in (own, fused))
    if isinstance(expected, tuple):
        expected, got = expected[0], got[0]
    if expected.dtype != got.dtype or expected.shape != got.shape:
        raise TypeError("what it gives is of another type")
    apart = (expected.float() - got.float()).norm() / expected.float().norm().clamp_min(1e-30)
    return float(apart)


class Norm:
    def __init__(self, module: Any, ops: ModuleType) -> None:
        self.weight, self.eps = weight_of(module)
        self._norm = ops.rms_norm

    def __call__(self, x: Tensor) -> Tensor:
        normed: Tensor = self._norm(x, self.weight, self.eps)
        return normed


class Mlp:
    """silu(gate(x)) * up(x), through `down`; or Gemma's GELU."""

    def __init__(self, module: Any, ops: ModuleType) -> None:
        kind = type(module.act_fn).__name__
        self.gelu = kind in _GELU and hasattr(ops, "GEMMA")
        if kind not in _SILU and not self.gelu:
            raise TypeError("its activation is another")
        self.product = ops.joined([module.gate_proj, module.up_proj])
        self._module = module
        self._gated = partial(ops.gated, gelu=True) if self.gelu else ops.gated

    def __call__(self, x: Tensor) -> Tensor:
        down: Tensor = self._module.down_proj(self._gated(self.product(x)))
        return down


class Attention:
    """An attention module's forward over the slots of the pass under way.

    how: what the module tells the attention function beside queries, keys and values.
    """

    def __init__(self, module: Any, how: dict[str, Any], ops: ModuleType) -> None:
        self.cap: float | None = how.get("softcap")
        if how.get("s_aux") is not None or (self.cap is not None and not hasattr(ops, "GEMMA")):
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
        self._spans: bool = getattr(ops, "SPANS", False)

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        if STEP.get().batch.spans and not self._spans:
            own: tuple[Tensor, Any] = self._own(*args, **kwargs)
            return own
        return self._over_slots(*args, **kwargs)

    def _over_slots(
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
        keys, values = self.slots(step, made[:, -self.heads[2] :].transpose(0, 1)[None])
        query = self._ops.turned(made, cos, sin, keys, values, step)
        more = () if self.cap is None else (self.cap,)
        out = self._ops.attend(query, keys, values, step, self.window, self.scale, *more)
        return self._module.o_proj(out.reshape(*shape[:-1], -1)), None

    def slots(self, step: SlotStep, like: Tensor) -> tuple[Tensor, Tensor]:
        """This layer's keys and values. like: keys, if there are no slots yet."""
        layer: int = self._module.layer_idx
        step.windows[layer] = self.window
        return step.cache.layer(layer, like, like)

    def _with_norms(self, made: Tensor) -> Tensor:
        query, key, value = torch.split(made, self.heads, 1)
        return torch.cat([self._module.q_norm(query), self._module.k_norm(key), value], 1)
