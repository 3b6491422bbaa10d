"""Parts of decoder layers, written out for a CPU: the same arithmetic in fewer calls.

A step of one row waits for its calls as long as for its products: a norm makes eight of
them, queries and keys are turned one after the other in fourteen, and what one product made is cut
in three and copied. Here a layer's queries, keys and values stay together until they are turned,
gate and up until they are multiplied.

All of it gives the bits that transformers' own code gives. Every part is compared with it on what
two passes of this model hand it, and a part that differs stays as it is. So do those of classes
that are not known: what they make of six tokens need not be what they do with more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from .attention import slot_attention
from .joined import joined

log = logging.getLogger("steerdeck.engine")

_FAMILIES = "Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3"
NORMS = {f"{family}RMSNorm" for family in _FAMILIES}
MLPS = {f"{family}MLP" for family in _FAMILIES}
_ATTENTIONS = {f"{family}Attention" for family in _FAMILIES}

_TOKENS = 6, 1  # of the passes on which parts are compared
_TOLD = "scaling", "sliding_window", "softcap", "s_aux"  # what attention is told of a layer

_WATCHING = "steerdeck-watching"
Call = tuple[tuple[Any, ...], dict[str, Any]]
_SEEN: ContextVar[list[dict[str, Any]]] = ContextVar("steerdeck_seen")


def write_out(model: Any, run: Callable[[int], object]) -> int:
    """Put written parts in place of a model's own where they give the same; returns how many.

    run: a pass of that many tokens. What it leaves in the slots' row 0 is to be cleared. Hooks run
    as ever but for those on linear layers that are joined, which nobody calls by themselves.
    """
    modules = [] if model.device.type != "cpu" else list(filter(known, model.modules()))
    parts: dict[Any, Any] = dict.fromkeys(modules)
    for tokens in _TOKENS if modules else ():
        seen = calls(modules, run, tokens)
        if tokens == _TOKENS[0]:
            parts = {m: if_it_can(_written, m, call) for m, call in seen.items()}
        parts = {
            m: part
            for m, part in parts.items()
            if m in seen and if_it_can(_same, m.forward, part, seen[m])
        }
    for module, part in parts.items():
        module.forward = part
    if parts:
        log.info("%d parts of layers are written out", len(parts))
    return len(parts)


def known(module: nn.Module) -> bool:
    kind = type(module)
    named = kind.__name__ in (*NORMS, *MLPS, *_ATTENTIONS)
    return named and kind.__module__.startswith("transformers.models.")


def if_it_can(make: Callable[..., Any], *given: Any) -> Any:
    """None for a part that is built in another way than its name says."""
    try:
        return make(*given)
    except Exception as error:
        log.debug("%s of %s: %r", make.__name__, type(given[0]).__name__, error)
        return None


def calls(
    modules: Sequence[nn.Module], run: Callable[[int], object], tokens: int
) -> dict[Any, Call]:
    """What such a pass hands to each of these."""
    seen: dict[Any, Call] = {}

    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[module] = args, kwargs

    handles = [m.register_forward_pre_hook(watch, with_kwargs=True) for m in modules]
    try:
        run(tokens)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _written(module: Any, call: Call) -> Callable[..., Any]:
    name = type(module).__name__
    if name in NORMS:
        return _Norm(module)
    return _Mlp(module) if name in MLPS else _Attention(module, told(module, call))


def _same(own: Callable[..., Any], written: Callable[..., Any], call: Call) -> bool:
    args, kwargs = call
    with torch.no_grad():
        expected, got = (forward(*args, **kwargs) for forward in (own, written))
    if isinstance(expected, tuple):
        expected, got = expected[0], got[0]
    return expected.dtype == got.dtype and torch.equal(expected, got)


def weight_of(norm: Any) -> tuple[Tensor, float]:
    """A norm's weight and eps. What Gemma calls its weight is what it has more than 1."""
    more = type(norm).__name__.startswith("Gemma")
    if more and norm.weight.dtype != torch.float32:
        raise TypeError("elsewhere it rounds otherwise")
    return (1.0 + norm.weight.detach(), norm.eps) if more else (norm.weight, norm.variance_epsilon)


class _Norm:
    """x / sqrt(mean(x^2) + eps) * weight, all of it float32."""

    def __init__(self, module: Any) -> None:
        if module.weight.dtype != torch.float32:
            raise TypeError("elsewhere it rounds on the way")
        self._weight, self._eps = weight_of(module)
        self._terms = float(module.weight.numel())

    def __call__(self, x: Tensor) -> Tensor:
        squares = torch.mul(x, x).sum(-1, keepdim=True)
        scale = squares.div_(self._terms).add_(self._eps).rsqrt_()
        return torch.mul(x, scale).mul_(self._weight)


class _Mlp:
    """act(gate(x)) * up(x), through `down`."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._both = joined([module.gate_proj, module.up_proj])
        self._width: int = module.gate_proj.out_features

    def __call__(self, x: Tensor) -> Tensor:
        both, width = self._both(x), self._width
        # Of numbers that do not lie in one piece torch computes some by other code.
        gate = both[..., :width].contiguous()
        product = self._module.act_fn(gate).mul_(both[..., width:])
        down: Tensor = self._module.down_proj(product)
        return down


class _Attention:
    """An attention module's forward over the slots of the pass under way.

    how: what the module tells the attention function beside queries, keys and values.
    """

    def __init__(self, module: Any, how: dict[str, Any]) -> None:
        self._module, self.how = module, how
        projections = module.q_proj, module.k_proj, module.v_proj
        self._product = joined(projections)
        self._dim: int = module.head_dim
        self._queries, keys = (one.out_features // self._dim for one in projections[:2])
        self._turned = self._queries + keys
        self._normed = hasattr(module, "q_norm")

    def __call__(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor, None]:
        query, key, value = self.heads(hidden_states, *position_embeddings)
        out, _none = slot_attention(self._module, query, key, value, None, **self.how)
        return self._module.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), None

    def heads(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [1, heads, tokens, dim] of x [1, tokens, d_model]."""
        queries, turned, half = self._queries, self._turned, self._dim // 2
        made = self._product(x).view(x.shape[1], -1, self._dim)  # [tokens, heads of all, dim]
        both = made[:, :turned]
        if self._normed:
            q_norm, k_norm = self._module.q_norm, self._module.k_norm
            both = torch.cat([q_norm(made[:, :queries]), k_norm(made[:, queries:turned])], 1)
        half_turned = torch.cat((-both[..., half:], both[..., :half]), -1)
        both = torch.mul(both, cos[0, :, None]).add_(half_turned.mul_(sin[0, :, None]))
        heads = both.transpose(0, 1)[None]
        return heads[:, :queries], heads[:, queries:], made[:, turned:].transpose(0, 1)[None]


def told(module: Any, call: Call) -> dict[str, Any]:
    """What a module tells its attention function beside queries, keys and values."""
    if isinstance(module.forward, _Attention):
        return module.forward.how
    args, kwargs = call
    seen: list[dict[str, Any]] = []
    token = _SEEN.set(seen)
    AttentionInterface.register(_WATCHING, _watching)
    usual, module.config._attn_implementation = module.config._attn_implementation, _WATCHING
    try:
        with torch.no_grad():
            module.forward(*args, **kwargs)
    finally:
        module.config._attn_implementation = usual
        _SEEN.reset(token)
    return {name: seen[0][name] for name in _TOLD if name in seen[0]}


def _watching(_module: nn.Module, query: Tensor, *_: Any, **how: Any) -> tuple[Tensor, None]:
    """An attention function that only notes how it is asked."""
    _SEEN.get().append(how)
    return query.transpose(1, 2), None
