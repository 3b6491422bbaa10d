"""What a run against the rivals says: one table, ratios within a round, and where we lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from report import middle, ratio
from rival_env import Rival


@dataclass
class Entry:
    """One rival of a run. rates, cpu_rates: by replies at once, a number for each round.

    facts: what it says of itself, none if it was never up. same: of how many replies the first
    tokens were those of `generate` with the same edits. why: it is not, or no longer, measured.
    """

    rival: Rival
    facts: dict[str, Any] = field(default_factory=dict)
    rates: dict[int, list[float]] = field(default_factory=dict)
    cpu_rates: dict[int, list[float]] = field(default_factory=dict)
    same: tuple[int, int] | None = None
    why: str | None = None

    @property
    def together(self) -> str:
        """How it makes several replies at once."""
        if not self.facts:
            return "-"
        batch, shared = self.facts["batch"], self.facts["shared"]
        if batch is None:
            return "one after another"
        if self.facts["op"] == "none":
            return batch
        return f"{batch}, {'one configuration for all' if shared else 'each its own'}"

    def row(self) -> dict[str, Any]:
        points = [
            {
                "concurrent": n,
                "rounds": len(rates),
                "tokens_per_s": middle(rates),
                "tokens_per_cpu_s": middle(self.cpu_rates[n]),
            }
            for n, rates in self.rates.items()
        ]
        same = dict(zip(("same_tokens", "compared"), self.same, strict=True)) if self.same else {}
        name = {"name": self.rival.name, "title": self.rival.title}
        return {**name, **self.facts, "points": points, **same, "why_not": self.why}


def against(ours: Entry, other: Entry) -> dict[str, dict[int, Any]]:
    """Our tokens a second over theirs.

    at_once: both making so many replies at once. one_at_a_time: theirs one after another, as
    anybody must who can neither join replies nor steer them apart.
    """
    alone = other.rates.get(1)
    return {
        "at_once": {
            n: ratio(rates, other.rates[n]) for n, rates in ours.rates.items() if n in other.rates
        },
        "one_at_a_time": {n: ratio(rates, alone) for n, rates in ours.rates.items() if alone},
    }


def cells(values: Sequence[float | None], digits: int = 1) -> list[str]:
    return ["-" if value is None else f"{value:.{digits}f}" for value in values]


def aligned(lines: Sequence[Sequence[str]], words: set[int]) -> str:
    """Columns of equal width; those of `words` to the left. A shorter line ends in free text."""
    full = len(lines[0])
    widths = [
        max(len(line[i]) for line in lines if len(line) == full or i + 1 < len(line))
        for i in range(full)
    ]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=False))
        ).rstrip()
        for line in lines
    )


def table(entries: Sequence[Entry], sizes: Sequence[int]) -> str:
    """For people. A rival that makes one reply after another has no number above 1 at once."""
    heads = [f"{what} {n}" for what in ("tok/s at", "per cpu-s at") for n in sizes]
    lines = [["", "version", "edit", *heads, "same tokens", "replies at once"]]
    for entry in entries:
        start = [entry.rival.title, entry.facts.get("version", "-")]
        if not entry.rates:
            lines.append([*start, f"not run: {entry.why}"])
            continue
        rates = [middle(of.get(n, ())) for of in (entry.rates, entry.cpu_rates) for n in sizes]
        same = "{}/{}".format(*entry.same) if entry.same else "-"
        together = entry.together + (f"; stopped: {entry.why}" if entry.why else "")
        lines.append([*start, entry.facts["op"], *cells(rates), same, together])
    return aligned(lines, {0, 1, 2, len(lines[0]) - 1})


def comparison(ours: Entry, others: Sequence[Entry]) -> str:
    """Our tokens a second over each rival's, and by name everybody who is faster somewhere."""
    sizes, told = list(ours.rates), {other.rival.title: against(ours, other) for other in others}
    heads = [*(f"at {n}" for n in sizes), *(f"{n} : theirs in turn" for n in sizes if n > 1)]
    lines = [[f"{ours.rival.title}, times", *heads]]
    for title, ratios in told.items():
        values = [ratios["at_once"].get(n, {}).get("median") for n in sizes]
        values += [ratios["one_at_a_time"].get(n, {}).get("median") for n in sizes if n > 1]
        lines.append([title, *cells(values, 2)])
    faster = [
        f"{title} at {n}"
        for title, ratios in told.items()
        for n, value in ratios["at_once"].items()
        if value["median"] < 1
    ]
    return f"{aligned(lines, {0})}\nfaster than it: {', '.join(faster) or 'none of them'}"
