"""Whether the hook points of a layer are what their names say, measured on the model itself.

Modules are found by name and structure, and a name promises little: a layer may scale what a block
adds, or run its blocks side by side. What SAEs were trained on is defined by sums
(resid_post = resid_pre + attn_out + mlp_out), so the sums decide.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import Unsteerable
from .sites import Edited, attached

_SUM = ("resid_pre", "attn_out", "mlp_out", "resid_post")
_ROUNDINGS = 8  # of the model's dtype that the sums may be apart by


def prove(layer: nn.Module, hook: str, run: Callable[[], object]) -> None:
    """Raise Unsteerable unless `hook` of this layer is the tensor that its name says.

    run: one forward pass of a few tokens through the layer, nothing steered.
    """
    x = _seen(layer, (hook,), run)[hook]
    if x.dim() != 3:
        raise Unsteerable(
            f"{type(layer).__name__} has {list(x.shape)} numbers at {hook}, not [rows, tokens, d]: "
            "its residual stream is none that a dictionary can be read from."
        )
    if hook not in ("attn_out", "mlp_out", "resid_mid"):
        return
    parts = _seen(layer, _SUM, run)
    before, attention, mlp, after = (parts[name].float() for name in _SUM)
    apart = (after - before - attention - mlp).norm()
    whole = before.norm() + attention.norm() + mlp.norm()
    if not apart <= _ROUNDINGS * torch.finfo(x.dtype).eps * whole:
        raise Unsteerable(
            f"{type(layer).__name__} adds something else to the residual stream than its attention "
            f"and its MLP put out (apart by {apart / whole:.1%}): {hook} cannot be steered there. "
            "Use a dictionary of resid_pre or resid_post."
        )
    if hook == "resid_mid":
        with attached(layer, {"attn_out": lambda added: 2 * added}):
            moved = _seen(layer, ("mlp_out",), run)["mlp_out"]
        if torch.equal(moved, parts["mlp_out"]):
            raise Unsteerable(
                f"{type(layer).__name__} runs attention and MLP side by side: it has no resid_mid."
            )


def _seen(layer: nn.Module, hooks: tuple[str, ...], run: Callable[[], object]) -> dict[str, Tensor]:
    """The tensors at these hook points in one pass."""
    found: dict[str, Tensor] = {}

    def seen(hook: str) -> Edited:
        return lambda x: found.setdefault(hook, x)

    with attached(layer, {hook: seen(hook) for hook in hooks}):
        run()
    return found
