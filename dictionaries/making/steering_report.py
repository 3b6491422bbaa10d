"""The evaluation's numbers for people: a table in Markdown, and one JSON with every reply."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .evaluate_steering import ARMS, MEANS, STEERED, SYSTEM, UNSTEERED, Record
from .exam import BEST
from .ledger import Ledger
from .on_task import choices

SHOWS, SILENT = 0.9, 0.05  # concept rates from, and up to which, steering counts as working
_WORDS = ("concept", "fluency", "on_task", "harmonic")
_NUMBERS = {2: "two", 3: "three", 4: "four"}
_TITLES = {STEERED: "feature", MEANS: "difference of means", SYSTEM: "system prompt"}


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Of every arm the medians over all concepts, one without a steered reply counting as 0.

    A baseline is not to blame where a sheet gives it nothing to work with: its medians are over the
    others, and without any it is left out.
    """
    found: dict[str, Any] = {"concepts": len(records)}
    for arm in ARMS:
        of = [r for r in records if arm == STEERED or arm in r["arms"]]
        if of:
            found[arm] = _summed(arm, of)
    return found


def _summed(arm: str, records: Sequence[Record]) -> dict[str, Any]:
    scores = [r["arms"][arm]["scores"] if arm in r["arms"] else None for r in records]
    return {
        **{word: median([s[word] if s else 0.0 for s in scores]) for word in _WORDS},
        "concepts": len(records),
        "steered": sum(s is not None for s in scores),
        "works": sum(
            s is not None and s["concept"] >= SHOWS and r["unsteered"] <= SILENT
            for s, r in zip(scores, records, strict=True)
        ),
    }


def write_report(ledger: Ledger, folder: Path, slugs: Sequence[str]) -> dict[str, Any]:
    """report.json and report.md in the folder, from the ledger's records of these concepts."""
    records = [ledger.records[slug] for slug in slugs]
    own, found = ledger.records[UNSTEERED], summary(records)
    whole = {
        "settings": ledger.settings,
        "chance_on_task": 1 / _choices(own),
        "summary": found,
        "unsteered": own,
        "concepts": records,
    }
    text = json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
    (folder / "report.json").write_text(text, encoding="utf-8")
    (folder / "report.md").write_text(markdown(records, own, found), encoding="utf-8")
    return found


def markdown(records: Sequence[Record], own: Record, found: dict[str, Any]) -> str:
    """The summary and the table."""
    replies, of = len(own["replies"]), _choices(own)
    lines = [
        f"{len(records)} concepts, {replies} replies to neutral messages each and in every arm. "
        f"*concept*: share of replies that name it, by its word list. *fluency*: 1 as the model's "
        "own replies, 0 as those with half their tokens shuffled, by how they surprise the "
        "unsteered model; a reply that loops is 0. *on task*: "
        f"share of replies that fit their own message best of {_NUMBERS[of]} (chance {1 / of:.2f}; "
        f"unsteered replies {own['on_task']:.2f}). *score*: the harmonic mean of the three, times "
        f"{BEST:g} as in AxBench.",
        "",
        "| median of | concept | fluency | on task | score | concept ≥ 0.9, unsteered ≤ 0.05 |",
        "|---|---|---|---|---|---|",
    ]
    for arm in [arm for arm in ARMS if arm in found]:
        part = found[arm]
        numbers = " | ".join(f"{part[word]:.2f}" for word in _WORDS)
        lines.append(f"| {_TITLES[arm]} | {numbers} | {part['works']} of {part['concepts']} |")
    lines += [
        "",
        "| concept | feature | edit | safe band | concept (unsteered) | fluency | on task | score "
        "| score of means | of a system prompt |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_line(record) for record in sorted(records, key=_rank)),
    ]
    return "\n".join(lines) + "\n"


def _choices(own: Record) -> int:
    return choices(len({told["prompt"] for told in own["replies"]}))


def _rank(record: Record) -> tuple[float, str]:
    steered = record["arms"].get(STEERED)
    return -(steered["scores"]["harmonic"] if steered else -1.0), record["key"]


def _line(record: Record) -> str:
    edit, band = record["edit"], record["band"]
    arms = record["arms"]
    steered = arms.get(STEERED, {}).get("scores")
    cells = [
        record["key"],
        "none" if record["feature"] is None else str(record["feature"]),
        f"{edit['op']} {edit['strength']:.3g}" if edit else "none",
        "–".join(f"{end:.3g}" for end in band) if band and None not in band else "",
        f"{steered['concept']:.2f} ({record['unsteered']:.2f})"
        if steered
        else f"({record['unsteered']:.2f})",
        *(f"{steered[w]:.2f}" if steered else "" for w in ("fluency", "on_task", "harmonic")),
        *(f"{arms[k]['scores']['harmonic']:.2f}" if k in arms else "" for k in (MEANS, SYSTEM)),
    ]
    return "| " + " | ".join(cells) + " |"
