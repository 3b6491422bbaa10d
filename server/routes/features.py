"""Search the features, look at one, find its neighbours. Plain functions: disks block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query

from dictionaries.cards import COUNTED, Card, Sort

from ..deck import FeatureName
from ..schemas.listings import FeatureDetail, FeatureList, NeighbourList
from ..summaries import summary
from .common import DeckDep, LookUp, Scan

router = APIRouter(prefix="/features", tags=["features"])

SCANNED = 2 * 2**30  # bytes of a decoder that are read while somebody waits

Ref = Annotated[
    str, Path(max_length=300, description="an id, `dictionary/id`, a slug or `dictionary/slug`")
]


@router.get("", dependencies=[LookUp], summary="Search the features")
def search(
    deck: DeckDep,
    q: Annotated[str, Query(max_length=500, description="beginnings of words")] = "",
    sort: Sort = "relevance",
    order: Annotated[
        Literal["asc", "desc"] | None, Query(description="default: best first")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    dictionary: Annotated[
        str | None, Query(max_length=200, description="default: the first one")
    ] = None,
) -> FeatureList:
    """Every word of `q` must begin a word of the label, the slug or the promoted tokens. Where no
    feature has all of them, those that have any are listed; `words` is then "any".

    Of a query with 1000 matches or more, 1000 are ranked, sorted and listed, those first that have
    it in their label; `total_exact` is then false. A dictionary without cards is listed by id, with
    the tokens that each feature promotes; there `q` may be an id.
    """
    opened = deck.dictionary(dictionary)
    cards = deck.cards.get(opened.info.id)
    some = False
    if cards is None:
        ids, total = _by_id(opened.info.d_sae, q, limit, offset)
        found = [FeatureName(opened.info.id, i, None) for i in ids]
    else:
        descending = None if order is None else order == "desc"
        look = partial(
            cards.search, q, sort=sort, descending=descending, limit=limit, offset=offset
        )
        page, total = look()
        some = not total and len(q.split()) > 1
        if some:
            page, total = look(some=True)
        found = [FeatureName(opened.info.id, card.feature, card) for card in page]
    return {
        "object": "list",
        "data": [summary(deck, name) for name in deck.shown(found)],
        "words": "any" if some else "all",
        "total": total,
        "total_exact": cards is None or not q.strip() or total < COUNTED,
        "limit": limit,
        "offset": offset,
        "has_more": offset + len(found) < total,
    }


def _by_id(d_sae: int, q: str, limit: int, offset: int) -> tuple[list[int], int]:
    q = q.strip()
    if not q:
        return list(range(min(offset, d_sae), min(offset + limit, d_sae))), d_sae
    hit = q.isascii() and q.isdigit() and len(q) < 11 and int(q) < d_sae
    return ([int(q)] if hit and not offset else []), int(hit)


@router.get(
    "/{ref:path}/neighbors",
    dependencies=[Scan],
    summary="Features with the most similar decoder rows",
)
def neighbors(
    ref: Ref, deck: DeckDep, n: Annotated[int, Query(ge=1, le=100)] = 10
) -> NeighbourList:
    """Most similar first, by the cosine of the decoder rows.

    Where the card has fewer than `n` of them, the decoder is read; of a huge one `reason` says why
    it is not.
    """
    name = deck.find(ref)
    near: Sequence[tuple[int, float]] = name.card.neighbours[:n] if name.card else ()
    opened, reason = deck.dictionaries[name.dictionary], ""
    if len(near) < n and opened.decoder_bytes <= SCANNED:
        near = opened.neighbours(name.feature, n)
    elif len(near) < min(n, opened.info.d_sae - 1):
        reason = (
            f"{len(near)} are known, and for more all {1e-9 * opened.decoder_bytes:.1f} GB of the "
            "decoder would have to be read: find them once for all features, by steerdeck make "
            "describe"
        )
    named = deck.shown([deck.find(f"{name.dictionary}/{feature}") for feature, _ in near])
    data = [
        {**summary(deck, other), "cosine": cosine}
        for other, (_, cosine) in zip(named, near, strict=True)
    ]
    told = {"reason": reason} if reason else {}
    return {"object": "list", "data": data, **told}  # type: ignore[typeddict-item]


@router.get("/{ref:path}", dependencies=[LookUp], summary="Everything known of one feature")
def feature(ref: Ref, deck: DeckDep) -> FeatureDetail:
    (name,) = deck.shown([deck.find(ref, examples=True)])
    card = name.card or Card(name.feature, "")
    bars = card.histogram
    return {
        **summary(deck, name),
        "labelled_by": card.labelled_by,
        "reach": deck.reach(name),
        "promoted_logits": [{"token": t, "logit": logit} for t, logit in card.promoted],
        "suppressed": [{"token": t, "logit": logit} for t, logit in card.suppressed],
        "histogram": {"edges": list(bars.edges), "counts": list(bars.counts)} if bars else None,
        "examples": [
            {
                "tokens": list(e.tokens),
                "activations": list(e.activations),
                "interval": list(e.interval) if e.interval else None,
            }
            for e in card.examples
        ],
    }
