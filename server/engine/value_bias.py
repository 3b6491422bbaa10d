"""What the bias of a layer's values adds to its heads' outputs, and hook_z without it.

Attention weights add up to 1, so it is one vector on every token. TransformerLens moves it into the
output's bias as it loads a model: dictionaries trained there never saw it (`Info.less_value_bias`).
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from dictionaries.dictionary import Info

from ..errors import Unsteerable
from .sites import Edited, attention_of, heads_width


def unseen(info: Info, layer: nn.Module) -> Tensor | None:
    """[d_in] float32: what a dictionary's training left off its site's vectors; None for nothing.

    Raises Unsteerable where this cannot be told.
    """
    if not info.less_value_bias or info.site.hook != "hook_z":
        return None
    width, attention = heads_width(layer), attention_of(layer)
    values = getattr(attention, "v_proj", None)
    if isinstance(values, nn.Linear):
        return None if values.bias is None else _shared(values.bias, attention, width)
    joint = getattr(attention, "c_attn", None)
    if isinstance(joint, Conv1D) and joint.nf == 3 * width:  # GPT-2: queries, keys, values
        bias: Tensor = joint.bias.detach()[2 * width :]
        return bias.float()
    raise Unsteerable(
        f"Dictionary {info.id!r} was trained without the bias of the values, and "
        f"{type(attention).__name__} does not show where that is: it was made for another model."
    )


def _shared(bias: Tensor, attention: nn.Module | None, width: int) -> Tensor:
    """Of values that several heads share, once for each head."""
    heads = bias.detach().float().view(-1, int(getattr(attention, "head_dim", width)))
    return heads.repeat_interleave(width // len(bias), dim=0).flatten()


def without(bias: Tensor | None, edited: Edited) -> Edited:
    """`edited` of x less the bias, in float32; what it changes is changed in x."""
    if bias is None:
        return edited

    def shifted(x: Tensor) -> Tensor:
        bare = x.float() - bias
        after = edited(bare)
        return x if after is bare else (x.float() + (after.float() - bare)).to(x.dtype)

    return shifted
