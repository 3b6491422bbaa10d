"""What a person turned in a rack, in words."""

from __future__ import annotations

from .rack import Rack


def difference(before: Rack, after: Rack) -> tuple[str, str]:
    """What changed between two racks, for a mark in the chat: in full, and in a few characters.

    Both are empty when nothing that acts changed.
    """
    old = {held.feature: held for held in before if held.on}
    new = {held.feature: held for held in after if held.on}
    told = []
    for name, held in new.items():
        if name not in old:
            told.append((held.label or name, held.said(), held.said()))
        elif held.wire() != old[name].wire():
            was, now = old[name].said(), held.said()
            if was == now:  # it acts at other times, or in another place
                was, now = old[name].acts(), held.acts()
            told.append((held.label or name, f"{was} → {now}", held.said()))
    told += [(held.label or name, "off", "off") for name, held in old.items() if name not in new]
    brief = told[0][2] if len(told) == 1 else f"{len(told)} changes" if told else ""
    return ", ".join(f"{label} {change}" for label, change, _ in told), brief
