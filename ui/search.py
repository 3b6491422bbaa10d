"""Finding features: the search box, its results, and edits from elsewhere made into a rack."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from . import rack as racks
from .assets import script
from .client import Api
from .errors import ApiError
from .rack import Rack

LIMIT = 50
SORTS = ("relevance", "label", "density", "maximum", "steerability", "output_score")
SHOWN = ("ref", "label", "density", "maximum", "promoted", "band", "recommended")


async def find(api: Api, asked: Mapping[str, Any]) -> dict[str, Any]:
    """One page of results for the widget's query {q, sort, n}, with the sort that was used.

    `n` counts the widget's queries and comes back with the answer, so that a late answer to an
    older query is not shown. A refusal comes back in `error`.
    """
    q = str(asked.get("q") or "")[:200]
    sort = asked.get("sort") if asked.get("sort") in SORTS else "relevance"
    # Nothing typed yet: what steers best is worth seeing first.
    sort = "steerability" if not q.strip() and sort == "relevance" else sort
    answer: dict[str, Any] = {"n": asked.get("n", 0), "q": q, "sort": sort}
    answer |= {"results": [], "total": 0}
    try:
        found = await api.get("/v1/features", q=q, sort=str(sort), limit=LIMIT)
    except ApiError as error:
        return answer | {"error": str(error)}
    results = [{name: one.get(name) for name in SHOWN} for one in found.get("data", [])]
    more = not found.get("total_exact", True)  # than are counted
    return answer | {
        "results": results,
        "total": found.get("total", len(results)),
        "more": more,
    }


async def rack_of(api: Api, edits: Sequence[Mapping[str, Any]]) -> Rack:
    """Wire edits (of a preset or a link) as a rack, with what the server knows of each feature.

    ApiError: the server does not know one of them. RackError: too many of them, or one twice.
    """
    known = await asyncio.gather(*(api.feature(str(edit.get("feature"))) for edit in edits))
    entries = [
        racks.entry(summary, colour, edit)
        for colour, (summary, edit) in enumerate(zip(known, edits, strict=True))
    ]
    return racks.parse(racks.value(entries))


def widget() -> gr.HTML:
    """The search box. Events: `query` ({q, sort, n}), `pick` ({ref}), `look` ({ref})."""
    return gr.HTML(
        value={},
        elem_id="search",
        html_template=(
            '<div class="sd-search">'
            '<input type="search" role="combobox" autocomplete="off" spellcheck="false"'
            ' aria-label="Search features" aria-expanded="false" aria-controls="sd-results"'
            ' aria-autocomplete="list" placeholder="Search features   /">'
            '<div class="sd-found" hidden></div></div>'
        ),
        js_on_load=script("search.js"),
        apply_default_css=False,
    )
