"""What tests give a model as `steerdeck make` sees it: windows of tokens, a change, an ask."""

from __future__ import annotations

from typing import Any

import torch

from dictionaries.dictionary import Dictionary, Site
from dictionaries.edits import EditTable, FeatureRows, Op
from dictionaries.making.subject import Ask, Change, Edited, Windows

SITE = Site(1, "resid_post")


def windows(*lengths: int) -> Windows:
    """Rows of bytes, padded on the right; the first token of each is the template's."""
    draw = torch.Generator().manual_seed(len(lengths))
    ids = torch.randint(0, 250, (len(lengths), max(lengths)), generator=draw)
    attended = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    content = attended.clone()
    content[:, 0] = False
    return Windows(ids, attended, content)


def change(dictionary: Dictionary, features: list[int], ops: list[tuple[Op, float]]) -> Change:
    """One feature and edit a row."""
    rows = dictionary.rows(features)
    batched = FeatureRows(
        rows.enc[:, None],
        *(getattr(rows, n)[:, None, None] for n in ("gain", "offset", "gate", "threshold")),
        rows.dec[:, None],
    )
    table = EditTable.of([op.edit(strength) for op, strength in ops])
    return Change(
        batched,
        EditTable(
            *(t[:, None, None] for t in (table.scale, table.shift, table.floor, table.ceiling))
        ),
    )


def ask(text: str = "Hello", *edits: Edited, **more: Any) -> Ask:
    return Ask(({"role": "user", "content": text},), edits, **({"max_tokens": 6} | more))
