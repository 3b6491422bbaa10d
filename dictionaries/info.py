"""What is known of a dictionary without reading its matrices: where it sits, and what it can do."""

from __future__ import annotations

from dataclasses import dataclass

from .edits import Norm
from .errors import DictionaryError


@dataclass(frozen=True, slots=True)
class Site:
    """Where in the model a dictionary reads and writes.

    hook: resid_pre, resid_mid, resid_post (input, middle, output of decoder layer `layer`),
    mlp_out, attn_out (what the block adds), hook_z (the input of the attention's output
    projection: heads x d_head wide).
    """

    layer: int
    hook: str

    def __str__(self) -> str:
        return f"layer {self.layer} {self.hook}"


HOOKS = ("resid_pre", "resid_mid", "resid_post", "mlp_out", "attn_out", "hook_z")


@dataclass(frozen=True, slots=True)
class Info:
    """What is known of a dictionary without reading its matrices."""

    id: str  # its name on the wire; no slash
    format: str  # the family: "saelens", "gemma_scope_1", ...
    architecture: str  # "standard", "jumprelu", "gated", "topk", "batchtopk", ...
    site: Site
    d_in: int
    d_sae: int
    norm: Norm
    k: int | None  # how many features fire on a token; TopK only
    model: str | None  # what it was trained on, as far as its files say
    revision: str  # see `formats.common.revision`; "" where the weights are not here
    reads_exactly: bool = True
    why_not: str = ""  # a sentence: why activations cannot be read, though `add` works
    d_out: int | None = None  # of the vectors it writes; None: d_in
    reads: str = ""  # transcoders: the place they read, in the publisher's words
    layers: tuple[int, ...] = ()  # of one that spans several; its x has an axis for them
    refused: str = ""  # a sentence: why nothing at all can be steered with it
    # At attn_out and mlp_out: trained on the module's own output, before a norm that may follow it.
    of_module: bool = False
    # At hook_z: trained on a model whose value bias had been moved behind the output projection.
    less_value_bias: bool = False
    packed_from: str = ""  # of a packed copy: the revision of what it was packed from

    @property
    def width(self) -> int:
        """Of the vectors at its site, where it writes."""
        return self.d_in if self.d_out is None else self.d_out

    def fits(self, model_layers: int, d_model: int) -> None:
        """Raise DictionaryError if a model of this shape has no such site."""
        if not 0 <= self.site.layer < model_layers:
            raise DictionaryError(
                f"dictionary {self.id!r} sits at {self.site}, but the model has layers 0 to "
                f"{model_layers - 1}: it was made for another model ({self.model or 'unnamed'})."
            )
        if self.site.hook != "hook_z" and self.width != d_model:
            raise DictionaryError(
                f"dictionary {self.id!r} has vectors of {self.width} numbers, but the model's "
                f"residual stream has {d_model}: it was made for another model "
                f"({self.model or 'unnamed'})."
            )
