"""Teach a model to follow directions: add them to its residual stream while it learns.

In these samples nothing in words causes a drift; the concept's direction does, added at the site on
content tokens, as an edit of its feature adds it when the model is served. So what a system prompt
can bring on, the direction brings on too, over a range of strengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .activations import Site, content
from .dealing import Sample
from .packing import Batch

REACH = (0.3, 1.0)
"""Strengths that a sample's direction is added with, in mean lengths of a content token's residual:
below, a direction is lost among what is there; above, it drowns it."""


class Following:
    """A hook at the site that adds to each batch what its marks say, once there are directions.

    slugs: of the concepts. Every batch to come has `rows` rows of `length` tokens; passes of
    another shape are left alone. All it reads is written in place, so a compiled pass stays valid.
    """

    def __init__(
        self, site: Site, slugs: Sequence[str], rows: int, length: int, *, seed: int
    ) -> None:
        self._numbers = {slug: i + 1 for i, slug in enumerate(slugs)}
        width, device = site.model.config.hidden_size, site.model.device
        self._vectors = torch.zeros(1 + len(slugs), width, device=device)
        self._marks = torch.zeros(rows, length, dtype=torch.long, device=device)
        self._content = torch.zeros(rows, length, 1, device=device)
        self._reach = torch.zeros(rows, length, 1, device=device)
        self._draw = torch.Generator().manual_seed(seed)
        self._handle = site.block.register_forward_hook(self._hook)

    def point(self, directions: Mapping[str, Tensor]) -> None:
        """From now on these are added: by slug, [d_model] each, of length 1."""
        for slug, direction in directions.items():
            self._vectors[self._numbers[slug]] = direction

    def mark(self, sample: Sample) -> int:
        """What this sample's tokens are to be marked with: 0 unless it is steered."""
        return self._numbers[sample.possessed or ""] if sample.steered else 0

    def take(self, batch: Batch) -> None:
        """What comes next is the pass of this batch."""
        low, high = REACH
        drawn = torch.rand(len(batch.ids), int(batch.segment.max()) + 1, generator=self._draw)
        reach = (low + (high - low) * drawn).gather(1, batch.segment)
        for own, one in (
            (self._marks, batch.marks),
            (self._content, content(batch.ids)[..., None]),
            (self._reach, reach[..., None]),
        ):
            own.copy_(one, non_blocking=True)

    def close(self) -> None:
        self._handle.remove()

    def _hook(self, _module: nn.Module, _args: object, output: Tensor) -> Tensor:
        if output.shape[:2] != self._marks.shape:
            return output
        x = output.detach().float()
        mean = (x.norm(dim=-1, keepdim=True) * self._content).sum() / self._content.sum()
        added = self._vectors[self._marks] * (self._reach * self._content * mean)
        moved: Tensor = output + added.to(output.dtype)
        return moved
