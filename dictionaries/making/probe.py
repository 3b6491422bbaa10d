"""What one concept's feature does to replies, for reading: preset questions, and the slider."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..card import Card
from ..edits import Op
from ..errors import DictionaryError
from .evaluate_steering import edit_of
from .neutral import said
from .subject import Ask, Edited, Speaker

_BEYOND = (1.5, 2.5)  # times the breakdown: where the slider ends


def probe(
    speaker: Speaker,
    card: Card,
    questions: Sequence[str],
    shows: Callable[[str], bool],
    *,
    tokens: int = 40,
    seed: int = 0,
) -> dict[str, Any]:
    """Every question answered once at the recommended strength and once unsteered, and the first
    one at strengths from nothing to beyond the breakdown. Nothing is picked: what comes is told.

    Raises DictionaryError for a card that recommends nothing.
    """
    edit = edit_of(card)
    if edit is None:
        raise DictionaryError(
            f"the card of feature {card.feature} ({card.label}) recommends no strength: "
            "`steerdeck make calibrate` measures one, where the feature has a safe band."
        )
    strengths = slider(card)
    at = [(q, s) for s in (edit["strength"], 0.0) for q in questions]
    at += [(questions[0], s) for s in strengths]
    unit = float(edit["maximum"])
    replies = speaker(
        [
            Ask(
                said(question),
                (Edited(card.feature, Op(edit["op"]), strength * unit),) if strength else (),
                seed=seed,
                max_tokens=tokens,
            )
            for question, strength in at
        ]
    )
    n = len(questions)
    answered = zip(questions, replies[:n], replies[n : 2 * n], strict=True)
    return {
        "concept": card.slug,
        "feature": card.feature,
        "edit": edit,
        "band": [card.onset, card.breakdown],
        "answers": [
            {"question": q, "reply": reply, "shows": shows(reply), "unsteered": own}
            for q, reply, own in answered
        ],
        "slider": [
            {"strength": s, "place": _place(card, s), "reply": reply, "shows": shows(reply)}
            for s, reply in zip(strengths, replies[2 * n :], strict=True)
        ],
    }


def slider(card: Card) -> list[float]:
    """Strengths from nothing to word salad, by the card's own band."""
    best = card.strength or 0.0
    onset, breakdown = card.onset or best, card.breakdown or best
    inside = {onset, (onset + best) / 2, best, (best + breakdown) / 2}
    return sorted({0.0, onset / 2, *inside, *(breakdown * f for f in _BEYOND)})


def _place(card: Card, strength: float) -> str:
    if strength == 0:
        return "unsteered"
    if strength == card.strength:
        return "recommended"
    if card.onset is not None and strength < card.onset:
        return "below the onset"
    if card.breakdown is not None and strength >= card.breakdown:
        return "beyond the breakdown"
    return "safe band"


def markdown(found: dict[str, Any]) -> str:
    """Two tables: the questions, and the slider on the first of them."""
    edit, shown = found["edit"], sum(a["shows"] for a in found["answers"])
    lines = [
        f"`{found['concept']}`, {edit['op']} {edit['strength']:.3g} × its maximum: {shown} of "
        f"{len(found['answers'])} answers name it.",
        "",
        "| question | steered | unsteered |",
        "|---|---|---|",
        *(f"| {_cell(a['question'], a['reply'], a['unsteered'])} |" for a in found["answers"]),
        "",
        f"| strength | | {found['answers'][0]['question']} |",
        "|---|---|---|",
        *(
            f"| {_cell(format(step['strength'], '.3g'), step['place'], step['reply'])} |"
            for step in found["slider"]
        ),
    ]
    return "\n".join(lines) + "\n"


def _cell(*texts: str) -> str:
    return " | ".join(" ".join(text.split()).replace("|", "\\|") for text in texts)
