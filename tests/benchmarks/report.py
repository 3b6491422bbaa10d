"""What the benchmark says: medians, ratios within a round, and a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from traffic import Round


@dataclass
class Point:
    """All rounds at one number of concurrent replies, steered or not."""

    concurrent: int
    steered: bool
    rounds: list[Round] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # seconds of the server's, round by round

    @property
    def rates(self) -> list[float]:
        return [r.tokens / r.wall for r in self.rounds]

    @property
    def cpu_rates(self) -> list[float]:
        return [r.tokens / cpu for r, cpu in zip(self.rounds, self.cpu, strict=False) if cpu]

    @property
    def cached(self) -> int:
        """Prompt tokens that the server had computed before."""
        return sum(reply.cached for r in self.rounds for reply in r.replies)

    def row(self) -> dict[str, Any]:
        replies = [reply for r in self.rounds for reply in r.replies]
        firsts = [1e3 * reply.first for reply in replies if reply.pieces]
        gaps = [1e3 * gap for reply in replies for gap in reply.gaps]
        return {
            "concurrent": self.concurrent,
            "steered": self.steered,
            "replies": len(replies),
            "tokens": sum(r.tokens for r in self.rounds),
            "ttft_ms": middle(firsts),
            "ttft_ms_p90": high(firsts),
            "token_ms": middle(gaps),
            "token_ms_p90": high(gaps),
            "tokens_per_s": middle(self.rates),
            "tokens_per_cpu_s": middle(self.cpu_rates),
        }


def middle(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 2) if values else None


def high(values: Sequence[float]) -> float | None:
    """The 90th percentile: the smallest value that nine tenths do not exceed."""
    return round(sorted(values)[math.ceil(0.9 * len(values)) - 1], 2) if values else None


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float | None]:
    """Median of the ratios within each round, and their range."""
    each = [a / b for a, b in zip(above, below, strict=False)]
    if not each:
        return {"median": None}
    return {"median": middle(each), "low": round(min(each), 2), "high": round(max(each), 2)}


def table(results: dict[str, Any]) -> str:
    """The results for people; a dash is what could not be measured."""
    head = (
        "at once",
        "edits",
        "tok/reply",
        "TTFT ms",
        "p90",
        "ms/token",
        "p90",
        "tokens/s",
        "per cpu-s",
    )
    keys = ("ttft_ms", "ttft_ms_p90", "token_ms", "token_ms_p90", "tokens_per_s")
    lines = [head]
    for row in results["points"]:
        numbers = [*(row[key] for key in keys), row["tokens_per_cpu_s"]]
        cells = ["-" if x is None else f"{x:.1f}" for x in numbers]
        length = f"{row['tokens'] / row['replies']:.1f}" if row["replies"] else "-"
        lines.append((str(row["concurrent"]), "yes" if row["steered"] else "no", length, *cells))
    return "\n".join("".join(f"{cell:>10}" for cell in line) for line in lines)


def summary(results: dict[str, Any]) -> str:
    lines = []
    for n, ratios in results["steered_over_unsteered"].items():
        wall, cpu = ratios["tokens_per_s"], ratios["tokens_per_cpu_s"]["median"]
        spread = f" ({wall['low']:.2f} to {wall['high']:.2f})" if "low" in wall else ""
        lines.append(f"steered / unsteered at {n}: {wall['median']}{spread}, per cpu-s {cpu}")
    if results["generate"]["tokens_per_s"]:
        lines.append(f"generate with a hook, alone: {results['generate']['tokens_per_s']} tokens/s")
        for n, ratios in results["steered_over_generate"].items():
            wall, cpu = (ratios[of]["median"] for of in ("tokens_per_s", "tokens_per_cpu_s"))
            lines.append(f"steered at {n} / generate with a hook: {wall}, per cpu-s {cpu}")
        if kept := results["cached_prompt_tokens"]:
            lines.append(
                f"These ratios flatter the server: it had {kept} prompt tokens in its prefix cache "
                "and generate computed all of its own. Start it with STEERDECK_PREFIX_CACHE=0."
            )
    return "\n".join(lines)
