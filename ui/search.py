"""Finding features: the search box, its results, and edits from elsewhere made into a rack."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from . import rack as racks
from . import timing
from .assets import drawn
from .client import Api
from .errors import ApiError
from .rack import Rack
from .typed import whole

LIMIT = 50
TEXT = 10_000  # characters of a text that is read
SORTS = ("relevance", "label", "density", "maximum", "steerability", "output_score")
SHOWN = ("ref", "label", "promoted", "band", "density", "maximum", "steerability", "output_score")
SHOWN_FIRING = (*SHOWN, "activation")


async def find(
    api: Api, asked: Mapping[str, Any], dictionaries: Sequence[str] = ()
) -> dict[str, Any]:
    """One page of results for the widget's query {q, sort, dictionary, offset, n, fires}, with the
    sort and the dictionary that were used; the first of `dictionaries` unless it names another.
    fires: q is a text, and the features are those that fire on it.

    A feature that `q` names by its number comes first. `next` is the offset of the page after this
    one, None after the last. `n` counts the widget's queries and comes back with the answer, so
    that a late answer to an older query is not shown. A refusal comes back in `error`.
    """
    fires = bool(asked.get("fires"))
    q = whole(str(asked.get("q") or "")[: TEXT if fires else 200])
    named = asked.get("dictionary")
    dictionary = named if named in dictionaries else next(iter(dictionaries), None)
    start = asked.get("offset")
    offset = start if isinstance(start, int) and 0 <= start < 2**31 else 0
    sort = asked.get("sort") if asked.get("sort") in SORTS else "relevance"
    # Nothing typed yet: what steers best is worth seeing first.
    sort = "steerability" if not q.strip() and sort == "relevance" else sort
    answer: dict[str, Any] = {"n": asked.get("n", 0), "q": q, "sort": sort, "offset": offset}
    answer |= {"dictionary": dictionary, "dictionaries": list(dictionaries)}
    answer |= {"results": [], "total": 0, "next": None, "fires": fires}
    within = {"dictionary": dictionary} if dictionary else {}
    try:
        if fires:
            firing = await api.firing(q, limit=LIMIT, **within)
            results = [{name: one.get(name) for name in SHOWN_FIRING} for one in firing]
            return answer | {"results": results, "total": len(results)}
        first = [] if offset else await _numbered(api, q, dictionary)
        found = await api.get(
            "/v1/features", q=q, sort=str(sort), limit=LIMIT, offset=offset, **within
        )
    except ApiError as error:
        return answer | {"error": str(error)}
    page = found.get("data", [])
    known = [one.get("ref") for one in first]
    results = first + [one for one in page if one.get("ref") not in known]
    return answer | {
        "results": [{name: one.get(name) for name in SHOWN} for one in results],
        "some": found.get("words") == "any",  # no feature has all words of q
        "total": max(found.get("total", 0), len(results)),
        "more": not found.get("total_exact", True),  # than are counted
        "next": offset + len(page) if found.get("has_more") and page else None,
    }


async def _numbered(api: Api, q: str, dictionary: str | None) -> list[dict[str, Any]]:
    """The feature whose number `q` is, alone or behind a dictionary's name; empty if there is none.

    The service's search finds words; a number is what papers and other tools name a feature by.
    """
    home, _, number = q.strip().rpartition("/")
    if not (number.isascii() and number.isdigit()):
        return []
    home = home or dictionary or ""
    try:
        return [await api.feature(f"{home}/{number}" if home else number)]
    except ApiError as error:
        if error.status in (400, 404):
            return []
        raise


async def rack_of(
    api: Api, edits: Sequence[Mapping[str, Any]], reads: Callable[[object], bool] = lambda ref: True
) -> Rack:
    """Wire edits (of a preset or a link) as a rack, with what the server knows of each feature,
    those that its conditions are about among them. reads: whether a feature's dictionary can.

    ApiError: the server does not know one of them. RackError: too many of them, or one twice.
    """
    known = await asyncio.gather(*(api.feature(str(edit.get("feature"))) for edit in edits))
    watched = sorted({str(one["feature"]) for edit in edits for one in timing.conditions(edit)})
    told = await asyncio.gather(*(api.feature(ref) for ref in watched))
    refs = {ref: str(one.get("ref") or ref) for ref, one in zip(watched, told, strict=True)}
    labels = {str(one["ref"]): str(one["label"]) for one in told if one.get("label")}
    entries = [
        racks.entry(
            summary,
            colour,
            timing.renamed(edit, refs),
            labels,
            reads=reads(summary.get("ref")),
        )
        for colour, (summary, edit) in enumerate(zip(known, edits, strict=True))
    ]
    return racks.parse(racks.value(entries))


def widget() -> gr.HTML:
    """The search box. Events: `query` ({q, sort, dictionary, offset, n, fires}), `pick` ({ref}),
    `look` ({ref}).
    """
    template = (
        '<div class="sd-search">'
        '<input type="search" role="combobox" autocomplete="off" spellcheck="false"'
        ' aria-label="Search features" aria-expanded="false" aria-controls="sd-results"'
        ' aria-autocomplete="list" placeholder="Search features or numbers   /">'
        '<div class="sd-found" hidden></div></div>'
    )
    return drawn("search", {}, template, "search.js")
