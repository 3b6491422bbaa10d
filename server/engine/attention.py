"""Attention over slots, plugged into transformers' public attention interface as "steerdeck".

The model runs on the flat tokens of a Batch, [1, tokens]; only attention knows about rows. It
writes the new keys and values to the slots, then every decoding row attends to its own slot in one
call, and every chunk of a prompt to its own in another; with code of our own (`native/`) all do in
one. Query heads that share a key head are folded into the query axis, so grouped keys are never
repeated.

Masks are additive and made once a step for each window, not once a layer.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from .batch import Batch
from .cache import SlotCache
from .native.layers import attended

if TYPE_CHECKING:
    from .around import Lead

NAME = "steerdeck"

# The pass under way in this thread; not an argument, since some models do not hand it on.
STEP: ContextVar[SlotStep] = ContextVar("steerdeck_step")


class SlotStep:
    """What the attention layers need to know of one forward pass."""

    def __init__(
        self,
        cache: SlotCache,
        batch: Batch,
        device: torch.device,
        positions: Tensor | None = None,
    ) -> None:
        """positions: the batch's, where they are on the device already."""
        self.cache = cache
        self.batch = batch
        self.offsets = batch.offsets()
        if positions is None:
            positions = torch.tensor(batch.positions, dtype=torch.long, device=device)
        self.positions = positions
        self.longest = max(batch.positions, default=-1) + 1
        self.shortest = min(batch.positions, default=-1) + 1
        self._index: dict[int, Tensor] = {}
        self._masks: dict[int | None, Tensor] = {}  # by window
        self._span_masks: dict[tuple[int, int | None, int], Tensor] = {}
        self.windows: dict[int, int | None] = {}  # by layer, what its attention was told
        self.computed = 0  # layers that have run, where some run in one call with one before them
        self.lead: Lead | None = None  # where a body of ours calls the layers

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """The row and the position of every token, [tokens]."""
        rows, positions = [*range(self.batch.rows.start, self.batch.rows.stop)], self.positions
        if self.batch.spans:
            more: list[int] = []
            for span in self.batch.spans:
                rows += [span.row] * len(span.tokens)
                more += range(span.start, span.stop)
            positions = torch.cat([positions, torch.tensor(more, device=positions.device)])
        return torch.tensor(rows, device=positions.device), positions

    def index(self, heads: int) -> Tensor:
        """Where the newest keys go, in a layer's keys seen as [rows * heads * capacity, dim]."""
        if heads not in self._index:
            rows = torch.arange(
                self.batch.first, self.batch.rows.stop, device=self.positions.device
            )
            head = torch.arange(heads, device=self.positions.device)
            slots = (rows[:, None] * heads + head) * self.cache.capacity
            self._index[heads] = (slots + self.positions[:, None]).reshape(-1)
        return self._index[heads]

    def first_key(self, window: int | None) -> int:
        """No decoding row looks further back than this."""
        return 0 if window is None else max(0, self.shortest - window)

    def mask(self, window: int | None, like: Tensor) -> Tensor | None:
        """[rows, 1, 1, keys] for the decoding rows; None if they all see all of their keys."""
        if self.shortest == self.longest:
            return None
        if window not in self._masks:
            mask = mask_of(self.positions, self.first_key(window), self.longest, window, like)
            self._masks[window] = mask[:, None, None, :]
        return self._masks[window]

    def span_mask(self, number: int, window: int | None, groups: int, like: Tensor) -> Tensor:
        """[groups * tokens, keys] for one chunk of a prompt."""
        key = (number, window, groups)
        if key not in self._span_masks:
            span = self.batch.spans[number]
            positions = torch.arange(span.start, span.stop, device=like.device)
            mask = mask_of(positions, span_first(span.start, window), span.stop, window, like)
            self._span_masks[key] = mask.repeat(groups, 1)
        return self._span_masks[key]


def span_first(start: int, window: int | None) -> int:
    return 0 if window is None else max(0, start - window + 1)


def mask_of(positions: Tensor, first: int, stop: int, window: int | None, like: Tensor) -> Tensor:
    """Additive mask [positions, stop - first]: each sees itself and, with a window, w-1 before."""
    keys = torch.arange(first, stop, device=positions.device)
    hidden = keys > positions[:, None]
    if window is not None:
        hidden |= keys <= positions[:, None] - window
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(
        hidden, -math.inf
    )


def slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query [1, heads, tokens, dim], key and value [1, kv_heads, ..] -> [1, tokens, heads, dim].

    s_aux: one attention sink a head (gpt-oss), a logit that takes probability and gives nothing.
    """
    slots = STEP.get()
    layer, window = _layer_index(module), sliding_window
    keys, values = slots.cache.layer(layer, key, value)
    slots.windows[layer] = window
    _write(slots, keys, key)
    _write(slots, values, value)
    flat = query[0].transpose(0, 1)
    own = attended(flat, keys, values, slots, window, scaling, softcap, s_aux)
    if own is not None:
        return own[None], None
    heads, kv_heads, groups = query.shape[1], key.shape[1], query.shape[1] // key.shape[1]
    outputs: list[Tensor] = []
    if count := len(slots.batch.tokens):
        rows, seen = slots.batch.rows, slice(slots.first_key(window), slots.longest)
        q = query[0, :, :count].transpose(0, 1).reshape(count, kv_heads, groups, -1)
        k, v, mask = keys[rows, :, seen], values[rows, :, seen], slots.mask(window, query)
        out = attend_to(q, k, v, mask, scaling, softcap, s_aux)
        outputs.append(out.reshape(count, heads, -1))
    for number, span in enumerate(slots.batch.spans):
        part = slice(slots.offsets[number], slots.offsets[number + 1])
        seen = slice(span_first(span.start, window), span.stop)
        row = slice(span.row, span.row + 1)
        q = query[0, :, part].reshape(1, kv_heads, groups * len(span.tokens), -1)
        mask = slots.span_mask(number, window, groups, query)
        out = attend_to(q, keys[row, :, seen], values[row, :, seen], mask, scaling, softcap, s_aux)
        outputs.append(out.reshape(heads, len(span.tokens), -1).transpose(0, 1))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None], None


def _write(slots: SlotStep, store: Tensor, new: Tensor) -> None:
    """new [1, kv_heads, tokens, dim] to where each token has its place."""
    if count := len(slots.batch.tokens):
        flat = new[0, :, :count].transpose(0, 1).reshape(-1, new.shape[-1])
        store.view(-1, store.shape[-1]).index_copy_(0, slots.index(new.shape[1]), flat)
    for span, offset in zip(slots.batch.spans, slots.offsets, strict=False):
        part = slice(offset, offset + len(span.tokens))
        store[span.row, :, span.start : span.stop] = new[0, :, part]


def _layer_index(module: nn.Module) -> int:
    index = module.layer_idx
    assert isinstance(index, int)
    return index


def attend_to(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """q [rows, kv_heads, groups * tokens, dim] over k, v [rows, kv_heads, keys, dim]."""
    if softcap is None and sinks is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    scores = (q @ k.mT).float() * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    if sinks is not None:
        rows, kv_heads, queries, _ = scores.shape
        groups = sinks.numel() // kv_heads
        sink = sinks.view(kv_heads, groups, 1).expand(-1, -1, queries // groups)
        sink = sink.reshape(1, kv_heads, queries, 1).expand(rows, -1, -1, -1)
        scores = torch.cat([scores, sink.to(scores.dtype)], dim=-1)
    weights = scores.softmax(-1).to(v.dtype)
    return (weights if sinks is None else weights[..., :-1]) @ v


def register() -> None:
    """Make "steerdeck" known to transformers. Idempotent."""
    AttentionInterface.register(NAME, slot_attention)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
