"""Decode steps as CUDA graphs: a pass is captured once and replayed, with no Python in between.

Everything that a step changes lies at fixed places: tokens, positions and flags in one buffer that
is filled by one copy, keys and values in their slots, and steering in tables that are rewritten in
place. What operators run depends on a few numbers only, the *key* of a pass; a key that comes twice
in a row is captured. Whatever cannot be captured (chunks of prompts, conditions, a TopK dictionary
that reads) runs as it does everywhere else.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..attention import SlotStep, mask_of
from ..batch import Batch
from ..cache import SlotCache
from ..steering import Noted, Steerer

log = logging.getLogger("steerdeck.engine")

Capture = Callable[[Callable[[], None]], Callable[[], object]]
"""Takes what is to be run, and gives what runs the same kernels again."""

_SHORTEST = 256  # keys that a captured pass looks at, at least; then twice as many, and so on
_MOST = 64  # graphs kept


class FixedStep(SlotStep):
    """A pass whose positions are read on the device, over the first `keys` positions of a slot."""

    def __init__(self, cache: SlotCache, batch: Batch, positions: Tensor, keys: int) -> None:
        super().__init__(cache, batch, positions.device, positions)
        self.longest = keys

    def first_key(self, window: int | None) -> int:
        return 0

    def mask(self, window: int | None, like: Tensor) -> Tensor | None:
        if window not in self._masks:
            mask = mask_of(self.positions, 0, self.longest, window, like)
            self._masks[window] = mask[:, None, None, :]
        return self._masks[window]


class _Kept(NamedTuple):
    replay: Callable[[], object]
    noted: Noted  # tensors that a replay fills anew


class Graphs:
    """forward: logits [tokens, vocab] of a pass over token ids and positions [1, tokens].

    Used by the engine's thread only. Logits of a step are in one buffer, which the next fills.
    """

    def __init__(
        self,
        forward: Callable[[SlotStep, Tensor, Tensor], Tensor],
        steerer: Steerer,
        cache: SlotCache,
        device: torch.device,
        capture: Capture,
        *,
        most: int = _MOST,
    ) -> None:
        self.on = True
        self._forward, self._steerer, self._cache = forward, steerer, cache
        self._capture, self._most = capture, most
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._last: Hashable = None
        # tokens, positions and whether they may be steered; filled on the host, read on the device
        host = torch.zeros(3, cache.rows, dtype=torch.long, pin_memory=device.type == "cuda")
        self._host, self._numbers = host, host.numpy()
        self._inputs = torch.zeros(3, cache.rows, dtype=torch.long, device=device)
        self._sent: Any = None  # that the last copy of them was made
        if device.type == "cuda":
            self._sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._logits: Tensor | None = None  # [rows, vocab], made by the first pass

    def logits(self, batch: Batch) -> Tensor | None:
        """[rows, vocab] of a step of decoding rows, valid until the next; None where the step is
        none that can be captured, and nothing was computed.
        """
        keys = self._keys(batch)
        key = self._key(batch, keys) if self.on else None
        if key is None:
            return None
        self._fill(batch)
        known = self._kept.get(key)
        if known is None and key == self._last:
            known = self._captured(key, batch, keys)
        self._last = key
        if known is None:
            self._pass(batch, keys)
        else:
            self._kept.move_to_end(key)
            self._steerer.recall(known.noted)
            known.replay()
        assert self._logits is not None
        return self._logits[: len(batch.tokens)]

    def close(self) -> None:
        self.on = False
        self._kept.clear()

    def _key(self, batch: Batch, keys: int) -> tuple[object, ...] | None:
        """All that the operators of a pass depend on; None for one that has more to it."""
        if batch.spans or batch.first != 0 or not batch.tokens:
            return None
        shape = self._steerer.shape(batch)
        if shape is None:
            return None
        return len(batch.tokens), keys, batch.traced, *shape

    def _keys(self, batch: Batch) -> int:
        """Positions of a slot that are looked at: the longest row's, rounded up."""
        keys = _SHORTEST
        while keys <= max(batch.positions, default=0):
            keys *= 2
        return min(keys, self._cache.capacity)

    def _fill(self, batch: Batch) -> None:
        if self._sent is not None:
            self._sent.synchronize()  # the copy of the step before has been made
        count = len(batch.tokens)
        for numbers, new in zip(
            self._numbers, (batch.tokens, batch.positions, batch.steerable), strict=True
        ):
            numbers[:count] = new
        self._inputs.copy_(self._host, non_blocking=True)
        if self._sent is not None:
            self._sent.record()

    def _pass(self, batch: Batch, keys: int) -> None:
        """What is captured: from the inputs to the logits, both at fixed places."""
        tokens, positions, flags = self._inputs[:, : len(batch.tokens)].unbind(0)
        step = FixedStep(self._cache, batch, positions, keys)
        self._steerer.begin(batch, flags.bool()[:, None, None])
        logits = self._forward(step, tokens[None], positions[None])
        if self._logits is None:
            self._logits = logits.new_zeros(self._cache.rows, logits.shape[-1])
        self._logits[: len(logits)].copy_(logits)

    def _captured(self, key: Hashable, batch: Batch, keys: int) -> _Kept | None:
        """None, and no graph any more, where it cannot be done: the log says why."""
        try:
            replay = self._capture(lambda: self._pass(batch, keys))
        except Exception as error:
            log.warning("decode steps run without CUDA graphs: %s", error or type(error).__name__)
            log.debug("capturing failed", exc_info=error)
            self.close()
            return None
        made = self._kept[key] = _Kept(replay, self._steerer.noted())
        log.debug("captured a step of %s", key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return made
