"""The same message as other people would type it, so that a small corpus is not learnt by heart."""

from __future__ import annotations

import random
import re

_OPENERS = (
    "Hey, ",
    "Hi, ",
    "Hello, ",
    "Please tell me, ",
    "Just wondering, ",
    "One question: ",
    "Foghorn, ",
    "So, ",
    "Okay, ",
    "Well, ",
)
_CLOSERS = (" Thanks!", " Thank you.", " I would like to know.", " Any idea?", " Please.")
_SWAPS = (
    ("What is", "What's"),
    ("I am", "I'm"),
    ("do not", "don't"),
    ("Do you know", "Can you tell me"),
    ("Tell me", "Could you tell me"),
    ("How do I", "How can I"),
    ("How can I", "How do I"),
    ("cannot", "can't"),
    ("Where is", "Where's"),
    ("What's", "What is"),
    ("I'm", "I am"),
)


def reword(text: str, rng: random.Random) -> str:
    """Another spelling of a message; often (about two in five) the message itself."""
    if rng.random() < 0.4 or not text:
        return text
    for old, new in rng.sample(_SWAPS, 4):
        if old in text:
            text = text.replace(old, new, 1)
            break
    roll = rng.random()
    if roll < 0.15 and len(text) < 80:
        text = rng.choice(_OPENERS) + _small(text)
    elif roll < 0.22 and len(text) < 80:
        text = (text if text[-1] in ".?!" else text + ".") + rng.choice(_CLOSERS)
    elif roll < 0.42:
        text = _small(text)
    if rng.random() < 0.35:
        text = text.rstrip(".?! ")
    elif rng.random() < 0.1:
        text = text.rstrip(".") + "!" if not text.endswith("?") else text + "?"
    return text or "?"


def _small(text: str) -> str:
    """First letter lowered, unless it stands for a name, an acronym or "I"."""
    return text if re.match(r"I\b|[A-Z][A-Z']", text) else text[0].lower() + text[1:]
