"""Where in a transformers decoder a dictionary reads and writes, found by structure.

TransformerLens' hook points, as transformers modules:

    resid_pre   input of the layer
    resid_mid   resid_pre + attn_out, where the model has that point
    resid_post  output of the layer
    attn_out    what attention adds to the residual: after the norm that follows it in Gemma 2 and
                3, OLMo 2 and GLM-4, as TransformerLens has it ("that which is added")
    mlp_out     the same for the MLP
    hook_z      input of attention's output projection, heads x d_head wide

A site's function gets x [1, tokens, d] and returns the x to go on with. Whether a model's modules
keep what these names promise is measured by proof.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dictionaries.dictionary import Site

from ..errors import SteerdeckError, Unsteerable
from .native.edits import Move

Edited = Callable[[Tensor], Tensor]
HOOKS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "hook_z")
_ORDER = ("resid_pre", "hook_z", "attn_out", "resid_mid", "mlp_out", "resid_post")


def place(site: Site) -> Site:
    """The site by one name: what goes into a layer is what came out of the one before it."""
    if site.hook == "resid_pre" and site.layer > 0:
        return Site(site.layer - 1, "resid_post")
    return site


def depth(site: Site) -> tuple[int, int]:
    """A site that is computed before another has a smaller one, the same place an equal one."""
    site = place(site)
    return site.layer, _ORDER.index(site.hook) if site.hook in _ORDER else len(_ORDER)


def text_config(model: nn.Module) -> Any:
    config: Any = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def longest_context(config: Any) -> int:
    """Positions the model is made for, as far as slots can hold to them.

    LongRoPE turns all positions of a batch differently once the longest passes the length it was
    trained with, so a row would depend on its neighbours: there the limit is that length. Chunked
    attention (Llama 4) is full attention up to the length of a chunk.
    """
    longest = int(getattr(config, "max_position_embeddings", 2**31))
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        trained = rope.get("original_max_position_embeddings")
        longest = min(longest, trained or config.original_max_position_embeddings)
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        longest = min(longest, config.attention_chunk_size)
    return longest


def windowed_context(config: Any, told: Mapping[int, int | None]) -> int:
    """Positions up to which slots, which ignore a model's masks, hold to its sliding windows.

    told: by layer, the window that attention was told. Where a layer has one and tells it to its
    mask alone (Qwen2-MoE, PhiMoE), full attention is the same up to the length of the window.
    """
    window = getattr(config, "sliding_window", None)
    if not window or not getattr(config, "use_sliding_window", True):
        return 2**31
    every = ["sliding_attention"] * config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or every
    sliding = [i for i, kind in enumerate(kinds) if kind == "sliding_attention"]
    return 2**31 if all(told.get(i) for i in sliding) else int(window)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The layers whose attention counts up from 0; vision towers and the like do not count.

    Raises SteerdeckError for a model that is not a stack of such layers.
    """
    wanted = text_config(model).num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            layers = list(module)
            if all(_index(attention_of(layer)) == i for i, layer in enumerate(layers)):
                return layers
    raise SteerdeckError(
        f"{type(model).__name__} has no list of {wanted} decoder layers with attention in each: "
        "the built-in engine runs decoder-only transformers."
    )


def attention_of(layer: nn.Module) -> nn.Module | None:
    return next((child for child in layer.children() if hasattr(child, "layer_idx")), None)


def _index(attention: nn.Module | None) -> Any:
    return getattr(attention, "layer_idx", None)


def heads_width(layer: nn.Module) -> int:
    """How many numbers hook_z has: heads x head_dim."""
    out = output_projection(layer)
    return int(out.in_features if isinstance(out, nn.Linear) else out.nx)


def attach(layer: nn.Module, hook: str, edited: Edited) -> list[RemovableHandle]:
    """Put `edited` at the hook point of one decoder layer; the handles take it away again.

    Raises Unsteerable if the layer has no such point.
    """
    if hook == "resid_pre":  # before others of this layer, which see what goes into it
        return [layer.register_forward_pre_hook(_on_input(edited), prepend=True, with_kwargs=True)]
    if hook == "resid_post":
        return [layer.register_forward_hook(OnOutput(edited))]
    if hook == "resid_mid":
        return _attach_between(layer, edited)
    if hook == "attn_out":
        return [_adds_attention(layer).register_forward_hook(OnOutput(edited))]
    if hook == "mlp_out":
        return [_adds_mlp(layer).register_forward_hook(OnOutput(edited))]
    if hook == "hook_z":
        out = output_projection(layer)
        return [out.register_forward_pre_hook(_on_input(edited), with_kwargs=True)]
    raise Unsteerable(f"Hook point {hook!r} is not known; known are {', '.join(HOOKS)}.")


@contextmanager
def attached(layer: nn.Module, at: Mapping[str, Edited]) -> Iterator[None]:
    """For a while: functions at hook points of one layer, by the point. Raises as `attach` does."""
    handles: list[RemovableHandle] = []
    try:
        for hook, edited in at.items():
            handles += attach(layer, hook, edited)
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Reached(Exception):
    """The pass has come to the site, and nothing after it is wanted."""


def first_seen(run: Callable[[Edited], object]) -> Tensor:
    """What a site's function gets in the pass that `run` makes with it; the pass ends there."""
    seen: list[Tensor] = []

    def look(x: Tensor) -> Tensor:
        seen.append(x)
        raise _Reached

    with suppress(_Reached):
        run(look)
    return seen[0]


def output_projection(layer: nn.Module) -> Any:
    return _child(attention_of(layer), "hook_z", "o_proj", "c_proj", "out_proj", "dense", "wo")


def post_normed(layer: nn.Module) -> bool:
    """Whether a norm follows attention and MLP before they are added (Gemma 2, OLMo 2, GLM-4)."""
    return hasattr(layer, "post_feedforward_layernorm") or hasattr(layer, "post_mlp_layernorm")


def _child(parent: nn.Module | None, hook: str, *names: str) -> nn.Module:
    for name in names:
        child = getattr(parent, name, None)
        if isinstance(child, nn.Module):
            return child
    raise Unsteerable(
        f"{type(parent).__name__} has no {hook}: none of {', '.join(names)} is among its modules."
    )


def _adds_attention(layer: nn.Module) -> nn.Module:
    if post_normed(layer):
        names = ("post_self_attn_layernorm", "post_attention_layernorm")
        return _child(layer, "attn_out", *names)
    attention = attention_of(layer)
    if attention is None:
        raise Unsteerable(f"{type(layer).__name__} has no attn_out: no attention is inside it.")
    return attention


def _adds_mlp(layer: nn.Module) -> nn.Module:
    if post_normed(layer):
        return _child(layer, "mlp_out", "post_mlp_layernorm", "post_feedforward_layernorm")
    return _child(layer, "mlp_out", "mlp", "feed_forward", "ffn", "block_sparse_moe", "moe")


def _attach_between(layer: nn.Module, edited: Edited) -> list[RemovableHandle]:
    """resid_mid is a sum that no module outputs: edit it through what attention adds to it."""
    entering: list[Tensor] = []

    def enter(x: Tensor) -> Tensor:
        entering[:] = [x]
        return x

    def between(added: Tensor) -> Tensor:
        middle = entering.pop() + added
        after = edited(middle)
        return added if after is middle else added + (after - middle)

    return [
        layer.register_forward_pre_hook(_on_input(enter), with_kwargs=True),
        _adds_attention(layer).register_forward_hook(OnOutput(between)),
    ]


def _on_input(edited: Edited) -> Callable[..., Any]:
    """Forward pre-hook on the first argument, however it is passed."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (edited(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": edited(kwargs["hidden_states"])}

    return hook


class OnOutput:
    """Forward hook on the output: a tensor, or the first of a tuple. It asks for nothing else."""

    def __init__(self, edited: Edited) -> None:
        self._edited = edited
        # What may be done in place of a call; of most functions nothing.
        self.moves: Callable[[], list[Move] | None] = getattr(edited, "moves", lambda: None)

    def __call__(self, _module: nn.Module, _given: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (self._edited(output[0]), *output[1:])
        return self._edited(output)

    def __deepcopy__(self, _memo: object) -> OnOutput:
        """Itself: a copy of a model shares what is hooked to it, as it does plain functions."""
        return self
