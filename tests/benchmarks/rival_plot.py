"""The JSON line of `rivals.py` as a picture: tokens a second of everybody, at every concurrency.

    python tests/benchmarks/rivals.py … | tee run.txt
    python tests/benchmarks/rival_plot.py run.txt > rivals.svg

An SVG of plain shapes needs no plotting package, and shows in a README in light and in dark.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

ROW, BAR, LABEL, WIDTH = 22, 14, 300, 790  # pixels
OURS, OTHERS, TEXT = "#d9532c", "#8a97a8", "#7a8594"


def plot(report: dict[str, Any]) -> str:
    """One panel a number of replies at once, the fastest on top; who makes one after another stands
    in each panel with what it makes alone.
    """
    sizes = sorted({p["concurrent"] for rival in report["rivals"] for p in rival["points"]})
    shapes: list[str] = []
    y = 0
    for size in sizes:
        bars = sorted(_bars(report["rivals"], size), key=lambda bar: -bar[1])
        shapes += _panel(f"{size} at once" if size > 1 else "one reply", bars, y)
        y += ROW * (len(bars) + 2)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{TEXT}">'
    )
    return "\n".join([head, *shapes, "</svg>"])


def _bars(rivals: Sequence[dict[str, Any]], size: int) -> list[tuple[str, float, bool]]:
    """(title, tokens a second, ours)."""
    bars = []
    for rival in rivals:
        rates = {point["concurrent"]: point["tokens_per_s"] for point in rival["points"]}
        rate = rates.get(size, rates.get(1))
        if rate is not None:
            title = rival["title"] if size in rates else f"{rival['title']}, in turn"
            bars.append((title, rate, rival["title"].startswith("Steerdeck")))
    return bars


def _panel(title: str, bars: Sequence[tuple[str, float, bool]], y: int) -> list[str]:
    room = WIDTH - LABEL - 70
    most = max((rate for _, rate, _ in bars), default=1.0)
    shapes = [f'<text x="0" y="{y + 15}" font-weight="600">{escape(title)}, tokens/s</text>']
    for i, (name, rate, ours) in enumerate(bars, 1):
        top, long = y + ROW * i, room * rate / most
        weight = ' font-weight="600"' if ours else ""
        shapes += [
            f'<text x="{LABEL - 8}" y="{top + 15}" text-anchor="end"{weight}>{escape(name)}</text>',
            f'<rect x="{LABEL}" y="{top + 4}" width="{long:.1f}" height="{BAR}" rx="3" '
            f'fill="{OURS if ours else OTHERS}"/>',
            f'<text x="{LABEL + long + 6:.1f}" y="{top + 15}">{rate:.0f}</text>',
        ]
    return shapes


if __name__ == "__main__":
    print(plot(json.loads(Path(sys.argv[1]).read_text("utf-8").splitlines()[-1])))
