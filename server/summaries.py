"""A feature in a few facts, as every list of features tells of it."""

from __future__ import annotations

from dictionaries.cards import Card

from .deck import Deck, FeatureName
from .schemas.listings import FeatureSummary

PROMOTED = 6  # tokens


def summary(deck: Deck, name: FeatureName) -> FeatureSummary:
    card = name.card or Card(name.feature, "")
    band = None
    if card.onset is not None and card.breakdown is not None:
        band = [card.onset, card.breakdown]
    recommended = card.op is not None and card.strength is not None
    return {
        "object": "feature",
        "id": name.feature,
        "ref": name.ref,
        "dictionary": name.dictionary,
        "label": name.label,
        "slug": card.slug,
        "density": card.density,
        "maximum": card.maximum,
        "steerability": card.steerability,
        "output_score": card.output_score,
        "promoted": [token for token, _ in card.promoted[:PROMOTED]],
        "band": band,
        "recommended": {"op": str(card.op), "strength": card.strength or 0.0}
        if recommended
        else None,
    }
