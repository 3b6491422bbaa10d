"""The nearest decoder rows of many features at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..dictionary import Dictionary


def nearest(
    dictionary: Dictionary, features: Sequence[int], n: int, device: torch.device | None = None
) -> list[list[tuple[int, float]]]:
    """For each feature the n others with the largest cosines: (id, cosine), nearest first.

    The decoder is read once, in blocks, for all of them: ask for many in one call.
    """
    own = normalize(dictionary.rows(features).dec.to(device), dim=-1)
    ids = torch.tensor(features, dtype=torch.long, device=own.device)
    found_cosines = torch.empty(len(features), 0, device=own.device)
    found_ids = torch.empty(len(features), 0, dtype=torch.long, device=own.device)
    for start, rows in dictionary.directions():
        cosines = own @ normalize(rows.to(own.device), dim=-1).T
        mine = ((ids >= start) & (ids < start + len(rows))).nonzero()[:, 0]
        cosines[mine, ids[mine] - start] = -2.0
        top = cosines.topk(min(n, len(rows)))
        found_cosines, found_ids = _best(
            torch.cat([found_cosines, top.values], -1),
            torch.cat([found_ids, start + top.indices], -1),
            n,
        )
    return [
        [(i, c) for i, c in zip(near, cos, strict=True) if c > -2.0]
        for near, cos in zip(found_ids.tolist(), found_cosines.tolist(), strict=True)
    ]


def _best(cosines: Tensor, ids: Tensor, n: int) -> tuple[Tensor, Tensor]:
    top = cosines.topk(min(n, cosines.shape[-1]))
    return top.values, ids.gather(-1, top.indices)
